"""From the controls to events: what a click, a key or an upload means.

Callbacks come in any thread, and each is guarded: what goes wrong in one is told in the panel.
Not covered: what follows (`state.py`), showing it (`view.py`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import LlavaNbError, plain
from ..machine import place
from . import events, html, record
from .data import Entry
from .layout import Controls
from .pictures import TOO_LARGE, Source, sources_of
from .runner import Runner
from .uploads import UploadButton
from .view import View

RECONNECTED = f"The page was connected anew. Has a file that you chose not arrived? {TOO_LARGE}"
RENEWED = f"This is a new upload button. {TOO_LARGE}"
QUOTED = r"\".+\"|'.+'"
IN_A_CELL = "Run this in a cell of its own: panel.choose(google.colab.files.upload())."


def pressed_enter(before: str, now: str) -> bool:
    """Whether a text changed by one new line at its end: a text area tells of no keys."""
    return now.endswith("\n") and now.count("\n") == before.count("\n") + 1


def encodable(text: str) -> str:
    """Replace halves of characters, which a page may send and no file or tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def paths_in(text: str) -> list[str]:
    """Return what stands on each line, without the quotes that file managers put around it."""
    lines = (line.strip() for line in encodable(text).splitlines())
    return [line[1:-1] if re.fullmatch(QUOTED, line) else line for line in lines if line]


class Wires:
    """The callbacks of a panel. `examples` are (picture, question) in the gallery's order."""

    def __init__(
        self,
        controls: Controls,
        runner: Runner,
        view: View,
        upload: UploadButton,
        examples: Sequence[tuple[Source, str]],
    ) -> None:
        self._controls, self._runner, self._view = controls, runner, view
        self._upload, self._examples = upload, examples
        self.record_name = f"captions-{datetime.now():%Y%m%d-%H%M%S}"

    def connect(self) -> None:
        """Attach the callbacks to the controls."""
        controls, guarded = self._controls, self._runner.guarded
        clicks: dict[Any, Callable[[], Any]] = {
            controls.open: lambda: self._open_paths(controls.path.value),
            controls.renew: self._renew,
            controls.colab: self._upload_in_colab,
            controls.ask: lambda: self._runner.do(self.question(events.Ask)),
            controls.stop: lambda: self._runner.do(events.Stop()),
            controls.more: lambda: self._runner.do(self.question(events.More)),
            controls.again: lambda: self._runner.do(self.question(events.Again)),
            controls.clear: lambda: self._runner.do(events.Clear()),
            controls.save: self._save,
        }
        for at, button in enumerate(controls.examples):
            clicks[button] = lambda at=at: self._example(*self._examples[at])
        for button, action in clicks.items():
            button.on_click(guarded(lambda _, action=action: action()))
        for widget, changed in (
            (controls.question, self._typed),
            (controls.path, self._path_typed),
            (controls.preset, self._preset),
            (controls.crop, self._framed),
            (controls.temperature, self._heated),
            (controls.show_options, self._options),
        ):
            widget.observe(guarded(changed), "value")
        self._upload.arrived = guarded(self.choose)
        self._upload.reconnected = guarded(self._reconnected)
        controls.colab.layout.display = None if place() == "colab" else "none"

    def question(
        self, kind: type[events.Ask], question: str | None = None, **settings: Any
    ) -> events.Ask:
        """Return an event with the settings of this moment; None is the question in the box."""
        controls, runner = self._controls, self._runner
        temperature = round(controls.temperature.value, 2)
        share = round(controls.top_p.value, 2)
        chosen = {
            "max_new_tokens": controls.length.value,
            "temperature": temperature,
            "top_p": share if temperature and share < 1 else None,
            "crop": runner.state.crop,
        }
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        question = None if question is None else encodable(question)
        return kind(chosen | settings, at, self._view.model_name, question)

    def choose(self, sources: tuple[Source, ...], then_ask: events.Ask | None = None) -> None:
        """Have pictures opened and put on the desk."""
        names = plain(", ".join(source.name for source in sources), 100)
        self._runner.do(events.Choose(sources, names or "the picture", then_ask))

    def _open_paths(self, text: str) -> None:
        paths = paths_in(text)
        if not paths:
            self._runner.do(events.Tell("Write a path or an address first, or several."))
            return
        self.choose(sources_of(paths))

    def _path_typed(self, change: Mapping[str, Any]) -> None:
        if pressed_enter(change["old"], change["new"]):
            self._controls.path.value = change["new"].rstrip("\n")
            self._open_paths(change["new"])

    def _example(self, source: Source, question: str) -> None:
        self.choose((source,), self.question(events.Ask, question))

    def _typed(self, change: Mapping[str, Any]) -> None:
        with self._runner.lock:  # so that nothing is written there meanwhile
            if self._view.writing:
                return
            self._view.typed(change["new"])
            if pressed_enter(change["old"], change["new"]):
                question = change["new"].rstrip("\n")
                self._runner.do(self.question(events.Ask, question))
            else:
                self._runner.do(events.Typed(encodable(change["new"])))

    def _preset(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self._runner.do(events.Typed(change["new"]))
            self._controls.preset.value = ""  # so that the same one can be chosen again

    def _framed(self, change: Mapping[str, Any]) -> None:
        self._runner.do(events.Reframe(change["new"]))

    def _heated(self, change: Mapping[str, Any]) -> None:
        self._controls.top_p.disabled = change["new"] == 0

    def _options(self, change: Mapping[str, Any]) -> None:
        self._controls.options.layout.display = None if change["new"] else "none"

    def _renew(self) -> None:
        self._upload.renew()
        self._runner.do(events.Tell(RENEWED))

    def _reconnected(self) -> None:
        self._runner.do(events.Tell(RECONNECTED))

    def _upload_in_colab(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise LlavaNbError(f"Colab's upload works in the main thread only. {IN_A_CELL}")
        from google.colab import files

        self._runner.do(events.Tell(f"Choose files below. No button there? {IN_A_CELL}", "busy"))
        uploaded = files.upload()  # waits for the person, in pieces that Colab can carry
        if uploaded:
            self.choose(sources_of((uploaded,)))
        else:
            self._runner.do(events.Tell(f"Nothing was uploaded. {TOO_LARGE}"))

    def _save(self) -> None:
        entries: tuple[Entry, ...] = self._runner.state.history
        self._controls.links.value = html.links(entries, self.record_name)
        paths = record.save(entries, ".", self.record_name)
        names = ", ".join(str(path) for path in paths)
        self._runner.do(events.Tell(f"{len(entries)} answers saved beside the notebook: {names}"))
