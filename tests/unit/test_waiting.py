"""What is shown while a picture is read: nothing of a short read, one line of a long one."""

from __future__ import annotations

import io
import time

import pytest

from llava_nb import example_picture
from llava_nb.inference import answer
from llava_nb.inference.answer import WaitingLine

QUESTION = "What is this?"


@pytest.fixture
def slow(tiny, monkeypatch):
    """The embedded model, which takes its time; waiting is told at once."""
    quick = tiny.engine.answer

    def slowly(generation):
        time.sleep(0.3)
        return quick(generation)

    monkeypatch.setattr(tiny.engine, "answer", slowly)
    monkeypatch.setattr(answer, "SHOWN_AFTER", 0.0)
    monkeypatch.setattr(answer, "SHOWN_EVERY", 0.01)
    return tiny


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_short_read_is_not_told(tiny, capsys):
    list(tiny.stream(example_picture(), QUESTION))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_line_is_rewritten_and_gone_before_the_answer(slow, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    pieces = slow.stream(example_picture(), QUESTION)
    next(pieces)
    told = terminal.getvalue()
    assert told.startswith("\rreading the picture, 0 s\rreading the picture, 0 s")
    assert "\n" not in told and told.endswith("s\r" + " " * len("reading the picture, 0 s") + "\r")
    list(pieces)
    assert terminal.getvalue() == told


def test_a_pipe_gets_whole_lines_that_become_rarer(monkeypatch, capsys):
    line = WaitingLine()
    for seconds in range(1, 20):
        line(float(seconds))
    line(None)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"reading the picture, {each} s" for each in (2, 4, 7, 11, 17)]


def test_in_a_notebook_it_is_an_output_and_nothing_on_stderr(monkeypatch, capsys):
    display = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def shows(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"kernel": None})())
    monkeypatch.setattr(display, "display", shows)
    line = WaitingLine()
    for seconds in (1.0, 2.1, 3.1, None):
        line(seconds)
    assert shown == ["reading the picture, 2 s", "reading the picture, 3 s", ""]
    assert capsys.readouterr() == ("", "")


def test_a_conversation_tells_whoever_asks_it_and_a_question_without_a_picture_nobody(slow):
    told = []
    for picture in (None, example_picture()):
        chat = slow.chat(picture)
        chat.waiting = told.append
        assert picture or (list(chat.stream(QUESTION)), told)[1] == []
    list(chat.stream(QUESTION))
    assert len(told) > 1 and told[-1] is None and told[:-1] == sorted(told[:-1])


def test_an_error_takes_the_line_away(slow, monkeypatch):
    def fails(generation):
        time.sleep(0.1)
        raise ValueError("no")

    told = []
    monkeypatch.setattr(slow.engine, "answer", fails)
    chat = slow.chat(example_picture())
    chat.waiting = told.append
    with pytest.raises(ValueError, match="no"):
        list(chat.stream(QUESTION))
    assert told[-1] is None
