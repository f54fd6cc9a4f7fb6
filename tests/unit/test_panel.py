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


def widgets_in(widget):
    """A widget and all in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def page(panel):
    """All the HTML of a panel."""
    shown = [each for each in widgets_in(panel) if isinstance(each, ipywidgets.HTML)]
    return Page("".join(each.value for each in shown if each.layout.display != "none"))


def updates(panel):
    """A list that grows with each text that the conversation shows of a question."""
    seen = []

    def look(change):
        for each in set(change["new"]) - set(change["old"]):
            seen.append(each.value)
            each.observe(lambda change: seen.append(change["new"]), "value")

    panel.controls.thread.observe(look, "children")
    return seen


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
    said = shown.index("(40, 20) Why? no 0")
    assert shown.index("Why?") < said < shown.index("0.5 s · 10.0 tokens/s")


def test_an_answer_appears_in_several_updates(panel, monkeypatch):
    monkeypatch.setattr("llava_nb.panel.worker.PACE", 0)
    seen = updates(panel)
    panel.ask("Why?")
    assert len([text for text in seen if "tokens/s" not in text]) > 2, seen


def test_updates_do_not_flood_the_page(panel):
    seen = updates(panel)
    panel.ask("word " * 500)
    assert len(seen) < 50, f"{len(seen)} updates for an answer that took no time"


def test_stop_ends_within_two_tokens(panel, llava):
    llava.gate.clear()
    begin(panel)
    wait_until(lambda: "stop" in panel.state.can)
    assert panel.controls.ask.description == "Stop"
    panel.controls.ask.click()
    assert panel.state.phase == "stopping"
    llava.gate.set()
    assert panel.wait(20)
    assert panel.history[0].finish == "stopped" and panel.history[0].answer.tokens <= 2


def test_a_double_click_on_ask_does_not_hit_stop(panel, llava):
    llava.gate.clear()
    begin(panel)
    panel.controls.ask.click()
    assert panel.state.phase == "answering" and panel.controls.ask.disabled
    llava.gate.set()
    panel.wait()
    assert [entry.finish for entry in panel.history] == ["eos"]


def test_how_long_the_picture_is_being_read_is_counted(panel, llava):
    llava.gate.clear()
    begin(panel)
    wait_until(lambda: "reading the picture, 1 s" in page(panel).text)
    llava.gate.set()
    panel.wait()
    assert "reading the picture" not in page(panel).text


def test_what_can_be_pressed_while_an_answer_comes(panel, llava):
    llava.gate.clear()
    begin(panel)
    wait_until(lambda: "stop" in panel.state.can)
    controls = panel.controls
    assert [each.disabled for each in (controls.ask, controls.clear)] == [False, True]
    assert [each.layout.display for each in (controls.more, controls.again)] == ["none"] * 2
    llava.gate.set()
    panel.wait()
    assert [each.disabled for each in (controls.ask, controls.clear)] == [False, False]
    assert controls.ask.description == "Ask" and controls.again.layout.display is None


def test_what_is_being_typed_is_left_alone(panel, llava, monkeypatch):
    monkeypatch.setattr("llava_nb.panel.worker.PACE", 0)
    llava.gate.clear()
    begin(panel)
    panel.controls.question.value = "half a sen"
    llava.gate.set()
    panel.wait()
    assert panel.controls.question.value == "half a sen" and len(panel.history) == 1


def test_a_suggestion_is_asked_with_one_click(panel):
    for number in (1, 2):
        panel.controls.presets[2].click()
        panel.wait()
        assert [entry.prompt for entry in panel.history] == ["Give a short caption."] * number
    assert panel.controls.question.value == ""


def test_a_suggestion_leaves_a_question_half_written(panel):
    panel.controls.question.value = "half a sen"
    panel.controls.presets[2].click()
    panel.wait()
    assert panel.controls.question.value == "half a sen" and len(panel.history) == 1


def test_a_suggestion_without_a_picture_is_written_down(llava):
    panel = caption_panel(llava)
    panel.controls.presets[2].click()
    assert panel.controls.question.value == "Give a short caption." and not panel.history


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
    assert "cut at the limit" in page(panel).text and panel.controls.more.layout.display is None
    press(panel, "more")
    assert [entry.text for entry in panel.history] == ["(40, 20) Why? no 0"]
    assert len(llava.chats[0].turns) == 1 and "more" not in panel.state.can


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
        ({"do_pad": True, "do_center_crop": True}, "; padded to a square"),
        ({"do_center_crop": True}, "; only the middle square"),
        ({}, ""),
    ],
)
def test_how_a_picture_becomes_a_square_is_noted(llava, about, note):
    llava.processor.image_processor = SimpleNamespace(**about)
    panel = caption_panel(llava)
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
        patch.setattr(panel_html, "turns", lambda *_: 1 / 0)
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
    assert set(shown.handlers) == {panel_html.COPY}


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
    for each in widgets_in(panel):
        is_area = isinstance(each, ipywidgets.Textarea)
        if hasattr(each, "description") and not isinstance(each, ipywidgets.HTML):
            assert each.placeholder if is_area else each.description, each


def test_anything_but_a_model_is_refused():
    for given in ("llava-1.5-7b", FakeLlava):
        with pytest.raises(LlavaNbError, match=r"caption_panel\(llava_nb\.load\(\)\)"):
            caption_panel(given)


# --- comparing -------------------------------------------------------------------------------


def test_two_answers_stand_side_by_side_and_the_talk_goes_on_from_the_first(panel, llava):
    first, second = panel.compare("Why?", temperature=0.7)
    assert [each.settings["temperature"] for each in (first, second)] == [0, 0.7]
    assert (first.variant, second.variant) == ("", "temperature 0.7")
    text = page(panel).text
    assert text.count("(40, 20) Why? no 0") == 2 and text.count("Why?") == 3
    assert "temperature 0.7" in text
    assert panel.ask("Who?")[0].text == "(40, 20) Who? no 1"


def test_what_is_compared_was_told_the_same(panel, llava):
    panel.ask("Who?")
    texts = [entry.text for entry in panel.compare("Why?", temperature=0.7)]
    assert texts == ["(40, 20) Why? no 1"] * 2


def test_another_model_answers_beside(panel):
    other = FakeLlava()
    other.name, other.quantization = "other", "8bit"
    entries = panel.compare("Why?", other=other)
    assert [entry.model for entry in entries] == ["fake", "other"]
    assert entries[1].variant == "other in 8 bits" and [q for q, _ in other.asked] == ["Why?"]


def test_another_prompt_style_is_for_one_answer(panel, llava):
    llava.style, seen = "vicuna_v1", []
    chat = llava.chat

    def noting(image, **options):
        made = chat(image, **options)
        stream = made.stream
        made.stream = lambda *given, **more: seen.append(llava.style) or stream(*given, **more)
        return made

    llava.chat = noting
    panel.compare("Why?", style="chatml")
    assert seen == ["vicuna_v1", "chatml"] and llava.style == "vicuna_v1"


def test_the_switch_compares_each_question(panel):
    panel.controls.compare.value = {"temperature": 0.7}
    begin(panel)
    panel.wait()
    assert [entry.variant for entry in panel.history] == ["", "temperature 0.7"]


def test_nothing_to_compare_with_is_refused(panel):
    with pytest.raises(LlavaNbError, match=r"temperature=0\.7"):
        panel.compare("Why?")


# --- a class ---------------------------------------------------------------------------------


def test_a_teacher_sets_title_examples_and_presets(llava):
    panel = caption_panel(
        llava, title="<b>Class</b>", examples=[(PICTURE, "Red?")], presets=["Why?", ("W", "Who?")]
    )
    assert "<b>Class</b>" in page(panel).text
    assert [each.description for each in panel.controls.presets] == ["Why?", "W"]
    panel.controls.examples[0].click()
    panel.wait()
    assert panel.history[0].text == "(40, 20) Red? no 0"


@pytest.mark.parametrize("given", [{"examples": ["cat.jpg"]}, {"presets": [("a", "b", "c")]}])
def test_examples_and_presets_of_another_shape_are_refused(llava, given):
    with pytest.raises(LlavaNbError, match="list of pairs"):
        caption_panel(llava, **given)


def test_all_texts_are_korean_in_korean(llava):
    panel = caption_panel(llava, language="ko")
    panel.choose(PICTURE)
    panel.controls.question.value = " "
    panel.controls.ask.click()
    names = [each.description for each in widgets_in(panel) if hasattr(each, "description")]
    foreign = {"Top-p", *(question for _, question in EXAMPLES)}
    english = [name for name in names if name.isascii() and name and name not in foreign]
    assert not english and "먼저 질문을 쓰세요." in page(panel).text


def test_a_language_that_there_is_not_is_refused(llava):
    with pytest.raises(LlavaNbError, match="'en' and 'ko', not 'fr'"):
        caption_panel(llava, language="fr")


@pytest.mark.parametrize(("name", "is_told"), [("tiny", True), ("llava-1.5-7b", False)])
def test_where_the_embedded_model_declines_it_is_said_why(panel, llava, monkeypatch, name, is_told):
    monkeypatch.setattr("llava_nb.catalog.DECLINED", "(40, 20) Why? no 0")
    llava.name = name
    panel.ask("Why?")
    assert ("drawings of coloured shapes" in page(panel).text) == is_told


# --- a model loaded inside, a cell run again -----------------------------------------------------


def without_model(monkeypatch, loads):
    monkeypatch.setattr("llava_nb.panel.panel.vram_report", no_report)
    fits = [SimpleNamespace(model="tiny", fits=True), SimpleNamespace(model="x", fits=False)]
    report = SimpleNamespace(verdicts=fits)
    best = SimpleNamespace(model="llava-onevision-0.5b", quantization=None)
    monkeypatch.setattr("llava_nb.panel.panel.check_gpu", lambda: report)
    monkeypatch.setattr("llava_nb.panel.panel.recommend", lambda report: best)
    monkeypatch.setattr("llava_nb.loading.load.load", loads)
    return caption_panel()


def test_a_model_is_loaded_inside(monkeypatch):
    asked = []

    def loads(model, *, quantization):
        asked.append((model, quantization))
        return FakeLlava()

    panel = without_model(monkeypatch, loads)
    panel.choose(PICTURE)
    assert panel.controls.models.options == ("llava-onevision-0.5b", "tiny")
    assert panel.controls.ask.disabled and panel.llava is None
    panel.controls.load.click()
    panel.wait()
    assert asked == [("llava-onevision-0.5b", None)] and panel.llava.name == "fake"
    assert panel.ask("Why?")[0].finish == "eos" and panel.history[0].model == "fake"
    assert panel.controls.loader.layout.display == "none"


def test_a_question_before_there_is_a_model_says_so(monkeypatch):
    panel = without_model(monkeypatch, None)
    panel.choose(PICTURE)
    assert not panel.ask("Why?") and "Load a model first" in page(panel).text


def test_a_model_that_cannot_be_loaded_is_told_and_another_can_be_tried(monkeypatch):
    def loads(model, **_):
        if model == "tiny":
            return FakeLlava()
        raise LlavaNbError("Too large: take tiny.")

    panel = without_model(monkeypatch, loads)
    panel.controls.load.click()
    panel.wait()
    assert "Too large: take tiny." in page(panel).text
    assert panel.controls.loader.layout.display is None
    panel.load("tiny")
    assert panel.llava is not None


def test_how_far_a_download_is_is_shown(monkeypatch):
    going = threading.Event()
    monkeypatch.setattr("llava_nb.loading.find.fetched_bytes", lambda hub_id: 2**29)
    panel = without_model(monkeypatch, lambda *_, **__: going.wait(20) and FakeLlava())
    panel.controls.load.click()
    wait_until(lambda: "0.5 of " in page(panel).text and " 1 s" in page(panel).text)
    going.set()
    panel.wait()


def test_a_cell_run_again_offers_the_conversation_of_before(panel, llava):
    panel.ask("Why?")
    again = caption_panel(llava)
    assert not again.history and again.controls.resume.layout.display is None
    again.controls.resume.click()
    assert [entry.text for entry in again.history] == ["(40, 20) Why? no 0"]
    assert again.controls.resume.layout.display == "none"
    assert again.ask("Who?")[0].text == "(40, 20) Who? no 1"


def test_a_first_panel_offers_nothing_of_before(llava):
    assert caption_panel(llava).controls.resume.layout.display == "none"
