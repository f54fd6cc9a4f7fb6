"""The panel with a model that is slow, evil or broken on demand, in JupyterLab and in Voila.

Each test brings its own picture, and so a conversation of its own.
"""

import json

import pytest
from lab_and_voila import AXE
from panel_page import FAKE, NARROW, NO_MATHJAX, WIDE, panel_page, png
from playwright.sync_api import expect

EVIL = "<img src=x onerror=window.ran=1>"
# Only what is grave, and only in the panel.
LOOK_FOR_FAULTS = """async () => {
    const found = await axe.run('.llava-panel');
    return found.violations.filter(each => ['serious', 'critical'].includes(each.impact))
        .map(each => [each.id, each.nodes[0].html.slice(0, 150), each.nodes[0].failureSummary])
        .map(each => each.join(': '));
}"""
IN_ONE_SCREEN = """() => {
    const parts = ['pictures', 'talk', 'question', 'ask'].map(
        name => document.querySelector(`.llava-${name}`).getBoundingClientRect());
    return Math.max(...parts.map(it => it.bottom)) - Math.min(...parts.map(it => it.top));
}"""
SCROLLED = "it => Math.round(it.scrollHeight - it.clientHeight + it.scrollTop)"  # from the top
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
        expect(page.button("Stop")).to_be_enabled()
        page.part("ask").click()
        expect(page.part("ask")).to_be_disabled()  # and so it has been heard
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
    page.shows("thread", "ValueError: <b>broken</b>")
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
    page.page.keyboard.press("Enter")
    expect(page.answer).to_have_text("(40, 20) Why so? no 0")


def test_scripts_from_outside_are_shown_and_saved_as_text(page, tmp_path):
    page.upload(png(tmp_path / f"{EVIL}.png"))
    expect(page.part("pictures").locator("img")).to_have_count(1)
    page.ask(EVIL)
    expect(page.answer).to_have_text(f"(40, 20) {EVIL} no 0")
    expect(page.talk.locator("img")).to_have_count(0)
    page.shoot("8-script-in-answer")
    page.is_free()
    page.part("save").click()
    page.shows("notice", "Saved beside the notebook")
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


def test_markdown_is_shown_as_such(page, tmp_path):
    page.upload(png(tmp_path / "md.png"))
    page.ask(
        "**Bold** and `code`\n\n- one\n- two\n\n[a](https://a.example) [b](javascript:window.ran=1)"
    )
    expect(page.answer.locator("strong")).to_have_text("Bold")
    expect(page.answer.locator("code")).to_have_text("code")
    expect(page.answer.locator("li")).to_have_count(2)
    expect(page.answer.locator("a")).to_have_count(1)
    expect(page.answer).to_contain_text("[b](javascript:window.ran=1)")


def test_two_answers_stand_side_by_side(page, tmp_path):
    page.upload(png(tmp_path / "two.png"))
    page.button("Options").click()
    page.part("compare").locator("select").select_option(label="temperature 0.7")
    page.ask("Why?")
    expect(page.talk.locator(".llava-answer")).to_have_text(["(40, 20) Why? no 0"] * 2)
    first, second = (each.bounding_box() for each in page.talk.locator(".llava-cell").all())
    page.shoot("11-compared")
    page.part("compare").locator("select").select_option(label="nothing")
    page.button("Options").click()
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]


def test_the_newest_is_in_view_and_who_scrolled_up_stays_there(page, tmp_path):
    page.upload(png(tmp_path / "long.png"))
    long = "\n\n".join(f"Line {at}" for at in range(30))
    page.ask(long)
    page.is_free()
    page.ask("And now?")
    expect(page.answer).to_have_text("(40, 20) And now? no 1")
    expect(page.answer).to_be_in_viewport()
    page.is_free()
    talk = page.part("talk")
    page.talk.get_by_text("Line 12").last.scroll_into_view_if_needed()
    before = talk.evaluate(SCROLLED)
    page.part("question").locator("textarea").fill("More " + "words " * 200)
    page.part("ask").evaluate("it => it.click()")
    expect(page.answer).to_contain_text("no 2")
    page.is_free()
    assert abs(talk.evaluate(SCROLLED) - before) < 40, "the conversation moved under the reader"


def test_picture_question_and_answer_are_in_one_screen(page, tmp_path):
    page.upload(png(tmp_path / "screen.png", size=(600, 400)))
    page.ask("Why?")
    page.is_free()
    heights = {}
    for width, height in ((1280, 720), (1920, 1080), (400, 860)):
        page.resize(width, height)
        heights[width] = (page.page.evaluate(IN_ONE_SCREEN), height - 130)  # what the page keeps
    page.resize(*WIDE)
    assert all(needed <= there for needed, there in heights.values()), heights


def test_a_narrow_cell_in_a_wide_window_is_stacked(page, tmp_path):
    page.upload(png(tmp_path / "narrow.png"))
    page.part("panel").evaluate("it => { it.style.width = '420px' }")
    left, right = (page.part(name).bounding_box() for name in ("left", "right"))
    page.part("panel").evaluate("it => { it.style.width = '' }")
    assert left["y"] + left["height"] <= right["y"] + 1 and right["width"] > 350


def test_copy_copies_the_answer_beside_it(page, tmp_path):
    page.upload(png(tmp_path / "copy.png"))
    page.ask("Why?")
    page.button("Copy").click()
    expect(page.talk.locator(".llava-copy")).to_have_text("Copied")
    assert page.page.evaluate("getSelection().toString()").strip() == "(40, 20) Why? no 0"


def test_the_conversation_is_a_live_region_and_can_be_scrolled_by_keys(page):
    expect(page.page.get_by_role("log", name="Conversation")).to_have_attribute(
        "aria-live", "polite"
    )
    page.page.get_by_role("region", name="Conversation").focus()
    expect(page.part("talk")).to_be_focused()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious(page, tmp_path, size):
    page.upload(png(tmp_path / "axe.png"))
    page.ask("Why?")
    page.is_free()
    page.resize(*size)
    page.button("Options").click()
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    faults = page.page.evaluate(LOOK_FOR_FAULTS)
    page.button("Options").click()
    page.resize(*WIDE)
    assert not faults, "\n".join(faults)
