"""Showing the state: which texts stand where, and what can be pressed.

Showing a state twice changes nothing, so it does not matter which update was lost. Text that
somebody is typing is left alone. Not covered: the widgets (`layout.py`), their HTML
(`html.py`), clicks (`box.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..vram.report import vram_report
from . import html
from .data import IDLE, Notice, PanelState
from .layout import Controls

if TYPE_CHECKING:
    from ..inference.llava import Llava


class View:
    """Shows states in the widgets of a panel.

    `writing` is true while it sets the question box, whose callback has to tell that from
    typing. `explain` makes a text of what goes wrong here.
    """

    def __init__(self, llava: Llava, controls: Controls) -> None:
        self._llava, self._controls = llava, controls
        self.writing = False
        self.explain: Callable[[BaseException], str] = str
        self._draft: str | None = None
        self._shown = PanelState(phase="")

    @property
    def model_name(self) -> str:
        """What the record calls the model."""
        return self._llava.name

    def typed(self, text: str) -> None:
        """Note what stands in the question box already."""
        self._draft = text

    def show(self, state: PanelState) -> None:
        """Show a state. Whatever goes wrong is told in the notice."""
        try:
            self._show(state)
        except BaseException as error:
            self._controls.notice.value = html.notice(Notice("error", self.explain(error)))

    def _show(self, state: PanelState) -> None:
        controls, before = self._controls, self._shown
        if state.draft != self._draft:  # first: once a picture is seen, somebody may be typing
            self._write(state.draft)
        self._enable(state)
        if state.subjects is not before.subjects or not before.phase:  # or for the first time
            controls.desk.value = html.desk(state.subjects)
        controls.talk.value = html.talk(state)
        controls.notice.value = html.notice(state.notice)
        if controls.crop.value != state.crop:
            controls.crop.value = state.crop
        ended = state.phase == IDLE and before.phase != IDLE
        if ended:
            # Once more: the update before may have been lost on the way.
            controls.talk.send_state("value")
        if ended or len(state.todo) < len(before.todo):
            controls.model.value = html.model_line(self._llava)
            controls.memory.value = html.memory(vram_report(self._llava)._repr_html_())
        self._shown = state

    def _enable(self, state: PanelState) -> None:
        controls, can = self._controls, state.can
        upload = controls.upload.widget
        for name, widgets in (
            ("choose", (upload, controls.open, controls.colab, *controls.examples)),
            ("ask", (controls.ask,)),
            ("stop", (controls.stop,)),
            ("more", (controls.more,)),
            ("again", (controls.again,)),
            ("clear", (controls.clear,)),
            ("save", (controls.save,)),
            ("reframe", (controls.crop,)),
        ):
            for widget in widgets:
                widget.disabled = name not in can
        several = len(state.subjects)
        controls.ask.description = f"Ask about all {several}" if several > 1 else "Ask"

    def _write(self, text: str) -> None:
        self.writing = True
        try:
            self._controls.question.value = self._draft = text
        finally:
            self.writing = False
