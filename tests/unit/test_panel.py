"""The panel driven from code: what is shown, what can be pressed, what a fault leaves behind."""

import gc
import io
import socket
import threading
import weakref
from html.parser import HTMLParser
from types import SimpleNamespace

import ipywidgets
import pytest
from panel_fakes import FakeLlava, no_report, wait_until
from PIL import Image

from llava_nb import LlavaNbError, PromptError, caption_panel
from llava_nb.panel import html as panel_html
from llava_nb.panel.panel import EXAMPLES

SCRIPT = "<img src=x onerror=alert(1)>\"'&"
PICTURE = Image.new("RGB", (40, 20), "red")


@pytest.fixture
def llava(monkeypatch):
    monkeypatch.setattr("llava_nb.panel.panel.vram_report", no_report)
    return FakeLlava()


@pytest.fixture
def panel(llava):
    """A panel with a picture."""
    made = caption_panel(llava)
    made.choose(PICTURE)
    return made


class Page(HTMLParser):
    """What a browser makes of some HTML: tags, handlers, text."""

    def __init__(self, value):
        super().__init__()
        self.images, self.handlers, self.text = [], [], ""
        self.feed(value)

    def handle_starttag(self, tag, attributes):
        self.images += [dict(attributes).get("src") for _ in [0] if tag == "img"]
        self.handlers += [value for name, value in attributes if name.startswith("on")]
        assert tag != "script"

    def handle_data(self, data):
        self.text += data


def page(panel):
    """All the HTML of a panel."""
    texts = [each.value for each in panel.children if isinstance(each, ipywidgets.HTML)]
    return Page("".join(texts))


def press(panel, name):
    """Press a button, and wait for what comes of it."""
    getattr(panel.controls, name).click()
    assert panel.wait(20)


def begin(panel, question="Why?"):
    """Ask by the controls, without waiting."""
    panel.controls.question.value = question
    panel.controls.ask.click()


def test_an_answer_is_shown_under_its_question(panel):
    panel.ask("Why?")
    shown = page(panel).text
    assert shown.index("Why?") < shown.index("(40, 20) Why? no 0") < shown.index("5 tokens in")


def test_an_answer_appears_in_several_updates(panel, monkeypatch):
    monkeypatch.setattr("llava_nb.panel.worker.PACE", 0)
    seen = []
    panel.controls.answers.observe(lambda change: seen.append(Page(change["new"]).text), "value")
    panel.ask("Why?")
    assert len([text for text in seen if "tokens in" not in text]) > 2, seen


def test_updates_do_not_flood_the_page(panel):
    seen = []
    panel.controls.answers.observe(lambda change: seen.append(change["new"]), "value")
    panel.ask("word " * 500)
    assert len(seen) < 50, f"{len(seen)} updates for an answer that took no time"


def test_stop_ends_within_two_tokens(panel, llava):
    llava.gate.clear()
    begin(panel)
    wait_until(lambda: llava.asked)
    panel.controls.stop.click()
    assert panel.state.phase == "stopping"
    llava.gate.set()
    assert panel.wait(20)
    assert panel.history[0].finish == "stopped" and panel.history[0].answer.tokens <= 2


def test_what_can_be_pressed_while_an_answer_comes(panel, llava):
    llava.gate.clear()
    begin(panel)
    controls = panel.controls
    pressable = [controls.stop]
    others = [controls.ask, controls.again, controls.clear, controls.more, controls.open]
    assert [each.disabled for each in (*pressable, *others)] == [False] + [True] * 5
    llava.gate.set()
    panel.wait()
    assert [each.disabled for each in (controls.ask, controls.again)] == [False, False]


def test_what_is_being_typed_is_left_alone(panel, llava, monkeypatch):
    monkeypatch.setattr("llava_nb.panel.worker.PACE", 0)
    llava.gate.clear()
    begin(panel)
    panel.controls.question.value = "half a sen"
    llava.gate.set()
    panel.wait()
    assert panel.controls.question.value == "half a sen" and len(panel.history) == 1


def test_a_preset_fills_the_box_and_can_be_chosen_again(panel):
    for _ in range(2):
        panel.controls.question.value = ""
        panel.controls.preset.value = "Give a short caption."
        assert panel.controls.question.value == "Give a short caption."
        assert panel.controls.preset.value == ""


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_is_one_click(llava, at):
    panel = caption_panel(llava)
    panel.controls.examples[at].click()
    panel.wait()
    assert (panel.history[0].picture, panel.history[0].prompt) == EXAMPLES[at]


def test_several_pictures_get_one_question_each(llava):
    panel = caption_panel(llava)
    panel.choose(PICTURE, Image.new("RGB", (30, 30)))
    assert panel.controls.ask.description == "Ask about all 2"
    texts = [entry.text for entry in panel.ask("Why?")]
    assert texts == ["(40, 20) Why? no 0", "(30, 30) Why? no 0"]
    panel.ask("Who?")
    press(panel, "again")
    assert [len(chat.turns) for chat in llava.chats] == [2, 2]


def test_too_many_pictures_are_told(llava):
    panel = caption_panel(llava)
    panel.choose(*[PICTURE] * 9)
    assert len(panel.state.conversations) == 8 and "8 of 9" in page(panel).text


def test_continue_goes_on_with_the_same_conversation(panel, llava):
    panel.ask("Why?", max_new_tokens=2)
    assert "stopped at the limit" in page(panel).text and not panel.controls.more.disabled
    press(panel, "more")
    assert [entry.text for entry in panel.history] == ["(40, 20) Why? no 0"]
    assert len(llava.chats[0].turns) == 1 and panel.controls.more.disabled


@pytest.mark.parametrize("fail_at", [None, 0])
def test_regenerate_puts_the_new_answer_or_if_it_fails_the_old_one(panel, llava, fail_at):
    panel.ask("Why?")
    llava.fail_at = fail_at
    press(panel, "again")
    texts = ["(40, 20) Why? no 0", "" if fail_at == 0 else "(40, 20) Why? no 0"]
    assert [entry.text for entry in panel.history] == texts
    assert len(llava.chats[0].turns) == len(panel.state.conversations[0].answered) == 1


@pytest.mark.parametrize(
    ("temperature", "reaches"),
    [(0.7, {"temperature": 0.7, "top_p": 0.9}), (0, {"temperature": 0, "top_p": None})],
)
def test_the_options_reach_the_model_and_a_share_of_words_only_in_a_draw(
    panel, llava, temperature, reaches
):
    panel.controls.temperature.value, panel.controls.top_p.value = temperature, 0.9
    press(panel, "ask")
    assert llava.asked[-1][1] == reaches and panel.controls.top_p.disabled == (not temperature)
    assert panel.history[0].settings == {"max_new_tokens": 256, **reaches}


@pytest.mark.parametrize(
    ("about", "note"),
    [
        ({"do_pad": True, "do_center_crop": True}, "; padded"),
        ({"do_center_crop": True}, "; only the middle square"),
        ({}, ""),
    ],
)
def test_how_a_picture_becomes_a_square_is_noted(llava, about, note):
    llava.processor.image_processor = SimpleNamespace(**about)
    panel = caption_panel(llava)
    assert "No picture yet" in page(panel).text
    panel.choose(PICTURE)
    assert Page(panel.controls.pictures.value).text == f"picture 40 x 20 pixels{note}"


def test_the_options_are_shown_on_request(panel):
    shown = []
    for pressed in (True, False):
        panel.controls.show_options.value = pressed
        shown.append(panel.controls.options.layout.display)
    assert shown == [None, "none"]


# --- faults ----------------------------------------------------------------------------------


def test_a_model_that_raises_is_told_and_the_next_question_works(panel, llava):
    llava.fail_at = 2
    (entry,) = panel.ask("Why?")
    assert (entry.finish, entry.text) == ("failed", "(40, 20)")
    assert "ValueError: <b>broken</b>" in page(panel).text and "before_word" in panel.faults[-1]
    assert panel.controls.question.value == "Why?"
    llava.fail_at = None
    assert panel.ask("Why?")[0].finish == "eos" and len(llava.chats[0].turns) == 1


@pytest.mark.parametrize(
    ("fault", "told", "kept"),
    [
        (KeyboardInterrupt(), "Interrupted", 0),
        (SystemExit(1), "SystemExit: 1", 1),
        (MemoryError(), "MemoryError", 1),
        (LlavaNbError("Load it again: load()."), "Load it again: load().", 0),
    ],
)
def test_nothing_that_a_worker_raises_leaves_the_panel_stuck(panel, llava, fault, told, kept):
    llava.fail_at, llava.fault = 1, fault
    panel.ask("Why?")
    assert told in page(panel).text and len(panel.faults) == kept
    llava.fail_at = None
    assert panel.ask("Why?")[0].finish == "eos"


@pytest.mark.parametrize(
    "begin", [lambda panel: panel.choose(PICTURE), lambda panel: press(panel, "ask")]
)
def test_a_thread_that_cannot_start_does_not_leave_the_panel_busy(panel, monkeypatch, begin):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        begin(panel)
    assert panel.wait(20) and "can't start new thread" in page(panel).text
    assert panel.ask("Why?")[0].finish == "eos"


def test_a_picture_that_cannot_be_read_leaves_the_others_or_those_before(panel):
    panel.choose(Image.new("RGB", (9, 9)), {"big.png": b""}, "/no/such/file.png")
    for _ in range(2):
        assert [each.picture.image.size for each in panel.state.conversations] == [(9, 9)]
        assert "big.png': nothing arrived" in page(panel).text and "file.png" in page(panel).text
        panel.choose({"big.png": b""}, "/no/such/file.png")


@pytest.mark.parametrize(
    ("fault", "told"), [(ZeroDivisionError(), "ZeroDivisionError"), (KeyboardInterrupt(), "Interr")]
)
def test_a_callback_that_raises_is_told(panel, monkeypatch, fault, told):
    def fail(*_):
        raise fault

    monkeypatch.setattr(panel_html, "save_record", fail)
    panel.controls.save.click()
    assert told in page(panel).text and panel.ask("Who?")[0].finish == "eos"
    assert len(panel.faults) == (told == "ZeroDivisionError")


def test_a_fault_while_showing_is_told(panel, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(panel_html, "answers", lambda session: 1 / 0)
        panel.ask("Why?")
        assert "ZeroDivisionError" in page(panel).text
    panel.ask("Who?")
    assert "(40, 20) Why? no 0" in page(panel).text


def test_an_interrupt_while_waiting_stops_the_answer(panel, llava, monkeypatch):
    llava.gate.clear()
    begin(panel)
    wait_until(lambda: llava.asked)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(panel._worker.lock, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            panel.wait()
    llava.gate.set()
    panel.wait()
    assert panel.history[0].finish == "stopped"


# --- what comes from outside -----------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_foreign_text_is_shown_as_text(llava, fails):
    panel = caption_panel(llava)
    panel.choose({SCRIPT: png_of(PICTURE), f"2{SCRIPT}": b"no picture"})
    llava.fail_at, llava.fault = (2 if fails else None), ValueError(SCRIPT)
    panel.ask(SCRIPT)
    panel.choose(f"/{SCRIPT}")
    shown = page(panel)
    assert SCRIPT in shown.text
    assert all(each.startswith("data:image/jpeg") for each in shown.images)
    assert set(shown.handlers) <= {panel_html.COPY}


def png_of(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("text", ["Why\ud83d?", "Why\x00\ud83d?"])
def test_half_a_character_breaks_nothing(panel, text):
    begin(panel, text)
    panel.wait()
    assert panel.ask(text)[0].prompt == panel.history[0].prompt == "Why\ufffd?"


def test_a_question_that_is_no_text_is_refused(panel):
    with pytest.raises(PromptError, match="a number"):
        panel.ask(5)


def test_no_socket_listens(llava, monkeypatch):
    listening = []
    monkeypatch.setattr(socket.socket, "listen", lambda *_: listening.append(1))
    panel = caption_panel(llava)
    panel.choose(PICTURE)
    panel.ask("Why?")
    assert not listening


def test_pictures_that_are_gone_take_no_memory(llava):
    panel = caption_panel(llava)
    seen = []
    for side in range(100, 110):
        panel.choose(Image.new("RGB", (side, side)))
        seen.append(weakref.ref(panel.state.conversations[0].picture.image))
        for _ in range(5):
            panel.ask("Why?")
    llava.chats.clear()
    gc.collect()
    assert len(panel.history) == 50
    assert [reference() is not None for reference in seen] == [False] * 9 + [True]


# --- record, looks -----------------------------------------------------------------------------


def test_save_writes_the_record_and_says_where(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.ask("Why?")
    panel.controls.save.click()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".html", ".jsonl"]
    assert all(path.name in page(panel).text for path in tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_says_what_to_do(panel, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", 5):
        with pytest.raises(LlavaNbError, match=r"panel\.save\("):
            panel.save(folder)


def test_every_control_has_a_label(panel):
    def controls(widget):
        for child in getattr(widget, "children", ()):
            yield from controls(child)
        if hasattr(widget, "description") and not isinstance(widget, ipywidgets.HTML):
            yield widget

    found = list(controls(panel))
    assert len(found) >= 18 and all(each.description for each in found)


def test_nothing_is_wider_than_a_narrow_page(panel):
    def layouts(widget):
        for child in getattr(widget, "children", ()):
            yield from layouts(child)
        yield widget.layout

    fixed = [each for layout in layouts(panel) for each in (layout.width, layout.min_width) if each]
    assert not [each for each in fixed if each.endswith("px")]
    assert {each for each in fixed if each.endswith("em")} == {"5em"}


def test_anything_but_a_model_is_refused():
    for given in ("llava-1.5-7b", FakeLlava):
        with pytest.raises(LlavaNbError, match=r"caption_panel\(llava_nb\.load\(\)\)"):
            caption_panel(given)
