"""The panel with the embedded model in JupyterLab and in Voila, with this ipywidgets.

From "run all" to an answer that really came of the picture. Not covered: what a fake model has
to provoke (`test_browser_fake.py`); the panel's own logic (`tests/unit`), the protocol
(`tests/panel`); Colab's and VS Code's front ends, which do not run outside of them.
"""

import statistics

import pytest
from lab_and_voila import VERSION
from panel_page import EMBEDDED, NARROW, WIDE, noise, panel_page, png
from playwright.sync_api import expect

# When the model gave the first piece of each answer, in a file beside the notebook.
NOTED = """
import time
from llava_nb.inference.chat import Chat
real = Chat.stream
def stream(self, *arguments, **named):
    for at, piece in enumerate(real(self, *arguments, **named)):
        if at == 0:
            with open("firsts.txt", "a") as file:
                print(time.time(), file=file)
        yield piece
Chat.stream = stream
"""
# When the page showed the first words of each answer.
WATCH = """() => {
    window.seen = [];
    const answers = document.querySelector('.llava-answers');
    const look = () => answers.querySelectorAll('.llava-answer').forEach((answer, at) => {
        if (answer.textContent && at === window.seen.length) window.seen.push(Date.now() / 1000);
    });
    new MutationObserver(look).observe(answers, {childList: true, subtree: true});
}"""
TOO_WIDE = """() => {
    const panel = document.querySelector('.llava-model').parentElement;
    const edge = panel.getBoundingClientRect().right + 1;
    return [...panel.querySelectorAll('*')]
        .filter(each => each.getBoundingClientRect().right > edge)
        .map(each => each.outerHTML.slice(0, 100));
}"""


@pytest.fixture(scope="module")
def opened(browser, server):
    cells = (EMBEDDED[0] + NOTED, EMBEDDED[1])
    with panel_page(browser, server, cells, theme="dark") as page:
        yield page


@pytest.fixture
def page(opened):
    yield opened
    opened.is_free()


def test_run_all_shows_the_panel(page):
    page.shoot("0-new")
    page.shows("pictures", "No picture yet")


def test_an_example_is_answered_with_one_click(page):
    page.button("What is in this picture?").click()
    page.shows("pictures", "one_shape.png")
    page.shows("answers", "tokens in")
    expect(page.answer).to_contain_text("circle")


def test_an_upload_is_asked_about_and_followed_up(page, tmp_path):
    page.upload(png(tmp_path / "square.png", "blue", (200, 200)))
    page.ask("Describe this picture.")
    page.shows("answers", "tokens in")
    page.ask("What colour is it?")
    expect(page.part("answers").locator(".llava-answer")).to_have_count(2)
    expect(page.part("answers").get_by_text("tokens in")).to_have_count(2)
    page.shoot("1-follow-up")


def test_two_pictures_are_answered_side_by_side(page, tmp_path):
    page.choose(png(tmp_path / "red.png"), png(tmp_path / "green.png", "green"))
    expect(page.button("Ask about all 2")).to_be_enabled()
    page.ask("What is in this picture?")
    expect(page.part("answers").get_by_text("tokens in")).to_have_count(2)
    page.shoot("2-two-pictures")


def test_six_megabytes_arrive(page, tmp_path):
    page.upload(noise(tmp_path / "six.png", 6))
    page.shows("pictures", "5.7 MiB")


def test_nothing_is_wider_than_a_narrow_page(page):
    page.button("How many things are there?").click()
    page.shows("pictures", "three_shapes.png")
    page.is_free()
    page.page.get_by_text("Options", exact=True).click()
    page.shoot("3-options")
    page.resize(*NARROW)
    too_wide = page.page.evaluate(TOO_WIDE)
    page.resize(*WIDE)
    assert not too_wide, f"beyond the panel's right edge at {NARROW[0]} pixels: {too_wide}"


def test_how_soon_the_first_words_are_on_the_page(page, tmp_path, record_property):
    """Reported, not judged: from the first piece of `stream` to its words on the page."""
    page.upload(png(tmp_path / "clock.png"))
    firsts = page.folder / "firsts.txt"
    firsts.unlink(missing_ok=True)
    page.page.evaluate(WATCH)
    for at in range(5):
        page.ask(f"{'Look closely. ' * at}Describe this picture.")
        expect(page.part("answers").get_by_text("tokens in")).to_have_count(at + 1)
        page.is_free()
    seen = page.page.evaluate("window.seen")
    given = [float(line) for line in firsts.read_text().split()]
    waits = [1000 * (there - here) for here, there in zip(given, seen, strict=True)]
    record_property("first_text_on_page_ms", round(statistics.median(waits), 1))
    print(f"{page.server.kind}: first text after {statistics.median(waits):.0f} ms in the median")
    print(f"of {[round(wait) for wait in waits]} ms")


def test_twelve_megabytes_are_lost_and_told_and_the_next_upload_works(page, tmp_path):
    page.choose(noise(tmp_path / "twelve.png", 12))
    if page.server.kind == "voila" and VERSION.startswith("7."):
        # This front end asks for nothing when it connects anew: the panel cannot notice.
        page.button("Nothing arrived?").click()
    page.shows("notice", "save it smaller")
    page.shoot("4-lost-upload")
    page.upload(png(tmp_path / "small.png"))
    page.ask("Describe this picture.")
    page.shows("answers", "tokens in")
