"""The panel with a model that is slow, evil or broken on demand, in JupyterLab and in Voila.

Each test brings its own picture, and so a conversation of its own.
"""

import json

import pytest
from lab_and_voila import VERSION
from panel_page import FAKE, NO_MATHJAX, panel_page, png
from playwright.sync_api import expect

EVIL = "<img src=x onerror=window.ran=1>"
FOCUSED = """() => {
    const at = document.activeElement;
    return at.closest('.llava-question') ? 'question'
        : at.textContent.trim() || at.placeholder || at.tagName;
}"""


@pytest.fixture(scope="module")
def opened(browser, server):
    with panel_page(browser, server, FAKE) as page:
        yield page


@pytest.fixture
def page(opened):
    """The page, with nothing under way; afterwards no script of it has failed."""
    opened.errors.clear()
    yield opened
    for name in ("held", "broken"):
        (opened.folder / name).unlink(missing_ok=True)
    opened.is_free()
    assert opened.page.evaluate("window.ran") is None, "a script from outside has run"
    errors = [each for each in opened.errors if NO_MATHJAX not in each]
    assert not errors, f"scripts of the page failed: {errors}"


def test_words_appear_while_the_answer_is_under_way(page, tmp_path):
    page.upload(png(tmp_path / "cat.png"))
    with page.held():
        page.ask("Why?")
        expect(page.answer).to_have_text("(40,")
        page.shoot("5-under-way")
    expect(page.answer).to_have_text("(40, 20) Why? no 0")


def test_stop_ends_the_answer_which_can_be_continued(page, tmp_path):
    page.upload(png(tmp_path / "dog.png"))
    with page.held():
        page.ask("Why?")
        expect(page.answer).to_have_text("(40,")
        page.part("stop").click()
        expect(page.part("stop")).to_be_disabled()  # and so it has been heard
    page.shows("notice", "Stopped.")
    expect(page.answer).to_have_text("(40, 20)")  # the word that was under way comes to its end
    page.shoot("6-stopped")
    page.part("more").click()
    expect(page.answer).to_have_text("(40, 20) Why? no 0")


def test_a_bad_picture_is_told_and_the_one_before_stays(page, tmp_path):
    page.upload(png(tmp_path / "fox.png"))
    bad = tmp_path / "bad.png"
    bad.write_text("This is no picture.")
    page.choose(bad)
    page.shows("notice", "bad.png")
    page.shoot("7-bad-picture")
    page.ask("Why?")
    expect(page.answer).to_have_text("(40, 20) Why? no 0")


def test_a_model_that_raises_is_told_and_the_next_question_works(page, tmp_path):
    page.upload(png(tmp_path / "hen.png"))
    broken = page.folder / "broken"
    broken.touch()
    page.ask("Why?")
    page.shows("notice", "ValueError: <b>broken</b>")
    page.shoot("9-model-raises")
    broken.unlink()
    page.part("ask").click()
    expect(page.answer).to_have_text("(40, 20) Why? no 0")


def test_the_keyboard_is_enough_to_ask(page, tmp_path):
    page.upload(png(tmp_path / "jay.png"))
    page.part("choose").focus()
    passed = []
    while "question" not in passed and len(passed) < 20:
        page.page.keyboard.press("Tab")
        passed.append(page.page.evaluate(FOCUSED))
    assert passed[-1] == "question", f"Tab went from the upload button to {passed}"
    page.page.keyboard.press("Control+A")
    page.page.keyboard.insert_text("Why so?")  # at once: a click may overtake single keys
    if page.server.kind == "lab" and VERSION.startswith("7."):
        # JupyterLab 4 keeps Enter from the text areas of ipywidgets 7: on to the button.
        page.page.keyboard.press("Tab")
        page.page.keyboard.press("Space")
    else:
        page.page.keyboard.press("Enter")
    expect(page.answer).to_have_text("(40, 20) Why so? no 0")


def test_scripts_from_outside_are_shown_and_saved_as_text(page, tmp_path):
    page.upload(png(tmp_path / f"{EVIL}.png"))
    expect(page.part("pictures").locator("img")).to_have_count(1)
    page.ask(EVIL)
    expect(page.answer).to_have_text(f"(40, 20) {EVIL} no 0")
    expect(page.part("answers").locator("img")).to_have_count(0)
    page.shoot("8-script-in-answer")
    page.is_free()
    page.part("save").click()
    page.shows("notice", "saved beside the notebook")
    page.shoot("10-saved")
    (file,) = page.folder.glob("captions-*.jsonl")
    last = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    assert (last["picture"], last["prompt"]) == (f"{EVIL}.png", EVIL), last
    record = page.page.context.browser.new_page()
    record.goto(file.with_suffix(".html").as_uri())
    expect(record.get_by_text(EVIL).last).to_be_visible()
    ran = record.evaluate("window.ran")
    record.close()
    assert ran is None, "a script in the record has run"
