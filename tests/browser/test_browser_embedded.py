"""The panel with the embedded model in JupyterLab and in Voila, with this ipywidgets.

From "run all" to an answer that really came of the picture. Colab's and VS Code's front ends do
not run outside of them, and are not tested.
"""

import pytest
from panel_page import EMBEDDED, NARROW, WIDE, panel_page, png
from playwright.sync_api import expect

TOO_WIDE = """() => {
    const panel = document.querySelector('.llava-panel');
    const edge = panel.getBoundingClientRect().right + 1;
    return [...panel.querySelectorAll('*')]
        .filter(each => each.getBoundingClientRect().right > edge && !each.closest('.llava-chips'))
        .map(each => each.outerHTML.slice(0, 100));
}"""


@pytest.fixture(scope="module")
def opened(browser, server):
    with panel_page(browser, server, EMBEDDED, theme="dark") as page:
        yield page


@pytest.fixture
def page(opened):
    yield opened
    opened.is_free()


def test_run_all_shows_the_panel(page):
    page.shoot("0-new")
    page.shows("empty", "Answers appear here")


def test_an_example_is_answered_with_one_click(page):
    page.button("What is in this picture?").click()
    page.shows("pictures", "one_shape.png")
    page.shows("thread", "tokens/s")
    expect(page.answer).to_contain_text("circle")


def test_an_upload_is_asked_about_and_followed_up(page, tmp_path):
    page.upload(png(tmp_path / "square.png", "blue", (200, 200)))
    page.ask("Describe this picture.")
    page.shows("thread", "tokens/s")
    page.ask("What colour is it?")
    expect(page.talk.locator(".llava-answer")).to_have_count(2)
    expect(page.talk.get_by_text("tokens/s")).to_have_count(2)
    page.shoot("1-follow-up")


def test_two_pictures_are_answered_side_by_side(page, tmp_path):
    page.choose(png(tmp_path / "red.png"), png(tmp_path / "green.png", "green"))
    expect(page.button("Ask about all 2")).to_be_enabled()
    page.ask("What is in this picture?")
    expect(page.talk.get_by_text("tokens/s")).to_have_count(2)
    page.shoot("2-two-pictures")


def test_nothing_is_wider_than_a_narrow_page(page, tmp_path):
    page.upload(png(tmp_path / "wide.png", size=(900, 300)))
    page.ask("How many things are there?")
    page.shows("thread", "tokens/s")
    page.is_free()
    page.page.get_by_text("Options", exact=True).click()
    page.shoot("3-options")
    page.resize(*NARROW)
    too_wide = page.page.evaluate(TOO_WIDE)
    page.resize(*WIDE)
    assert not too_wide, f"beyond the panel's right edge at {NARROW[0]} pixels: {too_wide}"
