"""`caption_panel(llava)`: a picture in, a question, the answer word by word, a Stop that stops.

A box of ipywidgets in a notebook cell: no server, no public link, no listening socket. `Controls`
are the widgets and how they lie; `CaptionPanel` is what they do: a click is a method of the session
(`state.py`), the worker does what follows (`worker.py`), and the widgets show it. Nothing is
printed: what a callback prints is lost.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipywidgets import Layout

from ..errors import LlavaNbError, plain
from ..images import example_picture
from ..inference.answer import MAX_NEW_TOKENS
from ..prompts import DEFAULT_PROMPT, check_question
from ..vram.report import vram_report
from . import html
from .page import PageLink
from .sources import Source, sources_of
from .state import IDLE, Entry, Notice, Session
from .worker import Worker

EXAMPLES = (
    ("one_shape.png", "What is in this picture?"),
    ("two_shapes.png", DEFAULT_PROMPT),
    ("three_shapes.png", "How many things are there?"),
)
# Label, question. The first is what LLaVA-1.5 and the embedded model were both trained on.
PRESETS = (
    ("Choose a question ...", ""),
    ("Describe", DEFAULT_PROMPT),
    ("Describe in detail", "Describe this picture in detail."),
    ("Short caption", "Give a short caption."),
    ("Text for who cannot see it", "Describe this picture in one sentence for a blind person."),
    ("List the objects", "List the objects in this picture."),
    ("Count", "How many things are there?"),
    ("Colours", "What colours are in this picture?"),
    ("Read the text", "What text is in this picture? Write it exactly as it stands there."),
    ("What is unusual?", "What is unusual about this picture?"),
    ("In Korean", "이 그림을 한국어로 설명해 주세요."),
)
HINT = "Enter asks. It stays about the same picture until you choose another, or press Clear."
# Below the sliders: beside them it would leave no room for them on a narrow page.
ABOUT_OPTIONS = (
    "An answer is counted in tokens, about three quarters of a word each. With temperature 0 the "
    "same question gives the same answer; above it words are drawn, from the likeliest top-p."
)
SMALL = '<div style="line-height: 1.4"><small>{}</small></div>'  # a widget's lines are far apart
QUOTED = r"\".+\"|'.+'"


def caption_panel(llava: Any) -> CaptionPanel:
    """Return the panel for a loaded model; as the last line of a cell it is shown.

    Raises LlavaNbError for anything but a loaded model.
    """
    if isinstance(llava, type) or not hasattr(llava, "chat"):
        raise LlavaNbError(
            f"caption_panel takes a loaded model, not {plain(repr(llava))}: "
            "caption_panel(llava_nb.load())."
        )
    return CaptionPanel(llava)


# The widgets and how they lie: core widgets of ipywidgets 7.7 and 8. Every control has a label, all
# can be reached with the Tab key, nothing is wider than 400 pixels unless there is room, and no
# colours are set. Labels are constants, because ipywidgets 7 shows them as HTML.

_SHORT_LABEL = {"description_width": "initial"}


def _row(*children: widgets.Widget) -> widgets.HBox:
    """Return widgets side by side, wrapped where the page is narrow."""
    layout = Layout(flex_flow="row wrap", align_items="center", grid_gap="4px", width="100%")
    return widgets.HBox(children, layout=layout)


def _button(label: str, tooltip: str, style: str = "") -> widgets.Button:
    layout = Layout(width="auto", min_width="5em")
    return widgets.Button(description=label, tooltip=tooltip, button_style=style, layout=layout)


def _text_area(label: str, **options: Any) -> widgets.Textarea:
    layout = Layout(width="auto", flex="1 1 18em", min_width="0", max_width="60em")
    return widgets.Textarea(description=label, style=_SHORT_LABEL, layout=layout, **options)


def _html(name: str, value: str = "") -> widgets.HTML:
    made = widgets.HTML(value, layout=Layout(width="auto", min_width="0", margin="2px"))
    made.add_class(f"llava-{name}")
    return made


def _slider(
    kind: type[widgets.Widget], label: str, value: float, low: float, high: float, step: float
) -> widgets.Widget:
    layout = Layout(width="auto", max_width="34em", min_width="0")
    about = {"description": label, "style": _SHORT_LABEL, "layout": layout}
    return kind(value=value, min=low, max=high, step=step, **about)


class Controls:
    """All widgets of a panel by name; `all` is what to show, top to bottom.

    `examples` are (HTML of a picture, question).
    """

    def __init__(self, page: PageLink, examples: Sequence[tuple[str, str]]) -> None:
        self.model, self.notice, self.memory = _html("model"), _html("notice"), _html("memory")
        self.pictures, self.answers = _html("pictures"), _html("answers")

        self.path = _text_area("Path or URL", placeholder="one a line; Enter opens", rows=1)
        self.open = _button("Open", "Open these paths or addresses")

        self.examples = [_button(text, "Take this picture and ask this") for _, text in examples]
        cards = [
            widgets.VBox([_html("example", card), button], layout=Layout(align_items="center"))
            for (card, _), button in zip(examples, self.examples, strict=True)
        ]

        layout = Layout(width="auto", max_width="100%")
        self.preset = widgets.Dropdown(
            options=PRESETS, description="Suggestions", style=_SHORT_LABEL, layout=layout
        )
        self.question = _text_area("Question", rows=2)
        self.ask = _button("Ask", "Ask about each picture", "primary")
        self.stop = _button("Stop", "End the answer now", "warning")
        self.more = _button("Continue", "Go on with an answer that was cut short")
        self.again = _button("Regenerate", "Answer the last question again")
        self.clear = _button("Clear", "A new conversation about the same picture")
        self.save = _button("Save record", "Write everything asked here as CSV, JSONL and HTML")

        self.length = _slider(widgets.IntSlider, "Longest answer", MAX_NEW_TOKENS, 16, 1024, 16)
        self.temperature = _slider(widgets.FloatSlider, "Temperature", 0, 0, 1.5, 0.1)
        self.top_p = _slider(widgets.FloatSlider, "Top-p", 1, 0.05, 1, 0.05)
        self.sliders = (self.length, self.temperature, self.top_p)
        about = _html("about-options", SMALL.format(ABOUT_OPTIONS))
        self.options = widgets.VBox([*self.sliders, about])
        # A button rather than an accordion, whose title the Tab key does not reach.
        self.show_options = widgets.ToggleButton(
            description="Options", tooltip="Length and variety", layout=Layout(width="auto")
        )
        widgets.dlink((self.temperature, "value"), (self.top_p, "disabled"), lambda it: it == 0)
        shown = (self.options.layout, "display")
        widgets.dlink((self.show_options, "value"), shown, lambda it: None if it else "none")

        for name in ("path", "question", "ask", "stop", "more", "again", "clear", "save"):
            getattr(self, name).add_class(f"llava-{name}")
        self.all = (
            self.model,
            _row(page.widget, self.path, self.open),
            _row(*cards),
            self.pictures,
            _row(self.preset),
            _row(self.question, self.ask, self.stop),
            _html("hint", SMALL.format(HINT)),
            _row(self.show_options),
            self.options,
            self.notice,
            self.answers,
            _row(self.more, self.again, self.clear, self.save),
            self.memory,
        )


# What they do.


class CaptionPanel(widgets.VBox):
    """The panel. `llava` is the model that answers.

    `choose`, `ask`, `stop` and `save` do in code what the controls do, and the panel shows it.
    """

    def __init__(self, llava: Any) -> None:
        self.llava = llava
        self._record_name = f"captions-{datetime.now():%Y%m%d-%H%M%S}"
        self._square = _how_made_square(llava)
        self._shown = Session(phase="")  # none yet
        self._in_the_box: str | None = None  # what the question box holds, as far as known
        session = Session(draft=DEFAULT_PROMPT, first_question=DEFAULT_PROMPT)
        self._worker = Worker(llava, session, self._show)
        guarded = self._worker.guarded
        self._page = PageLink(on_pictures=guarded(self._choose), on_ask=guarded(self._ask_typed))
        self._examples = [(Source(example_picture(name), name), text) for name, text in EXAMPLES]
        cards = [
            (html.picture(source.name, source.open().thumbnail, html.EXAMPLE), text)
            for source, text in self._examples
        ]
        self.controls = Controls(self._page, cards)
        self._connect()
        super().__init__(self.controls.all, layout=Layout(width="100%"))
        self.add_class("llava-panel")
        if hasattr(self, "_ipython_display_"):  # and 7 by that
            self.on_displayed(lambda _: self._page.display_script())
        self._show(session)

    def _repr_mimebundle_(self, **options: Any) -> Any:  # ipywidgets 8 is shown by this
        self._page.display_script()
        return super()._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"<CaptionPanel of {self.llava.name}, {len(self.history)} answer(s)>"

    @property
    def state(self) -> Session:
        """What the panel shows at this moment."""
        return self._worker.session

    @property
    def history(self) -> tuple[Entry, ...]:
        """Everything asked in this panel, oldest first."""
        return self.state.history

    @property
    def faults(self) -> deque[str]:
        """The tracebacks of the last errors that were not expected, as text."""
        return self._worker.faults

    def choose(self, *sources: Any) -> None:
        """Choose pictures: whatever `open_image` takes, or a dict of named bytes.

        Waits until they are open; those that cannot be read are told in the panel.
        """
        self._choose(sources_of(sources))
        self.wait()

    def ask(self, question: str | None, **settings: Any) -> tuple[Entry, ...]:
        """Ask about each chosen picture, wait, and return what came of it.

        None is the question in the box. `settings` are max_new_tokens, temperature and top_p; by
        default those of the panel. Raises PromptError for a question that is no text.
        """
        before = len(self.history)
        self._worker.do(Session.ask, self._question(question, settings))
        self.wait()
        return self.history[before:]

    def stop(self) -> None:
        """End what is under way."""
        self._worker.do(Session.stop)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False if that took longer than `timeout` seconds.

        An interrupt ends the answer too.
        """
        return self._worker.wait(timeout)

    def save(self, folder: str | os.PathLike = ".") -> list[Path]:
        """Write the record as CSV, JSONL and an HTML page into a folder; return the paths.

        Later calls replace what this panel wrote there. Raises LlavaNbError.
        """
        try:
            return html.save_record(self.history, Path(folder).expanduser(), self._record_name)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            why = plain(getattr(error, "strerror", None) or error)
            raise LlavaNbError(
                f"The record cannot be written to '{plain(folder)}' ({why}). Choose "
                'another folder: panel.save("/tmp").'
            ) from error

    # From the controls to the session. Callbacks come in any thread, and each is guarded.

    def _connect(self) -> None:
        controls, do, guarded = self.controls, self._worker.do, self._worker.guarded
        clicks: dict[widgets.Button, Callable[[], Any]] = {
            controls.open: lambda: self._open_paths(controls.path.value),
            controls.ask: lambda: do(Session.ask, self._question()),
            controls.stop: self.stop,
            controls.more: lambda: do(Session.go_on, self._question("")),
            controls.again: lambda: do(Session.regenerate, self._question("")),
            controls.clear: lambda: do(Session.clear),
            controls.save: self._save,
        }
        for button, (source, text) in zip(controls.examples, self._examples, strict=True):
            clicks[button] = lambda source=source, text=text: self._choose((source,), text)
        for button, action in clicks.items():
            button.on_click(guarded(lambda _, action=action: action()))
        controls.question.observe(guarded(self._typed), "value")
        controls.path.observe(guarded(self._path_typed), "value")
        controls.preset.observe(guarded(self._preset), "value")

    def _question(self, prompt: str | None = None, settings: Mapping[str, Any] = {}) -> Entry:
        """A question with the settings of this moment; None is what is in the box."""
        prompt = self.state.draft if prompt is None else prompt
        if not isinstance(prompt, str) or prompt.strip():
            prompt = check_question(prompt)
        length, temperature, top_p = (each.value for each in self.controls.sliders)
        chosen = {
            "max_new_tokens": length,
            "temperature": round(temperature, 2),
            "top_p": round(top_p, 2) if temperature and top_p < 1 else None,
        }
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        return Entry(prompt=prompt, settings=chosen | settings, asked_at=at, model=self.llava.name)

    def _choose(self, sources: tuple[Source, ...], question: str | None = None) -> None:
        """Have pictures opened, and ask the question about them."""
        names = plain(", ".join(source.name for source in sources), 100)
        then_ask = None if question is None else self._question(question)
        self._worker.do(Session.choose, sources, names or "the picture", then_ask)

    def _tell(self, text: str, kind: str = "info") -> None:
        self._worker.do(Session.tell, text, kind)

    def _open_paths(self, text: str) -> None:
        if paths := paths_in(text):
            self._choose(sources_of(paths))
        else:
            self._tell("Write a path or an address first, or several.")

    def _path_typed(self, change: Mapping[str, Any]) -> None:
        if pressed_enter(change["old"], change["new"]):
            self.controls.path.value = change["new"].rstrip("\n")
            self._open_paths(change["new"])

    def _typed(self, change: Mapping[str, Any]) -> None:
        with self._worker.lock:  # so that nothing is written there meanwhile
            if change["new"] == self._in_the_box:
                return  # written by the panel
            text = self._in_the_box = change["new"]
            if not self._page.keys_seen and pressed_enter(change["old"], text):
                self._worker.do(Session.ask, self._question(text.rstrip("\n")))
            else:
                self._worker.do(Session.typed, text)

    def _ask_typed(self, text: str) -> None:
        self._worker.do(Session.ask, self._question(text))

    def _preset(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self._worker.do(Session.typed, change["new"])
            self.controls.preset.value = ""  # so that the same one can be chosen again

    def _save(self) -> None:
        names = ", ".join(map(str, self.save()))
        self._tell(f"{len(self.history)} answers saved beside the notebook: {names}")

    # From the session to the widgets.

    def _show(self, session: Session) -> None:
        """Show a session. Whatever goes wrong is told in the notice.

        Showing it twice changes nothing, so it does not matter which update was lost. Text that
        somebody is typing is left alone.
        """
        try:
            self._update(session)
        except BaseException as error:
            self.controls.notice.value = html.notice(Notice("error", self._worker.explain(error)))

    def _update(self, session: Session) -> None:
        controls, before = self.controls, self._shown
        if session.draft != self._in_the_box:  # first: who sees a picture may be typing
            self._in_the_box = controls.question.value = session.draft  # in this order: see _typed
        self._enable(session)
        controls.pictures.value = html.pictures(session.conversations, self._square)
        controls.answers.value = html.answers(session)
        controls.notice.value = html.notice(session.notice)
        ended = session.phase == IDLE and before.phase != IDLE
        if ended:  # once more: the update before may have been lost on the way
            controls.answers.send_state("value")
        if ended or len(session.todo) < len(before.todo):
            controls.model.value = html.model_line(self.llava)
            controls.memory.value = html.MEMORY_STYLE + vram_report(self.llava)._repr_html_()
        self._shown = session

    def _enable(self, session: Session) -> None:
        controls, can = self.controls, session.can
        for widget in (controls.open, *controls.examples):
            widget.disabled = "choose" not in can
        self._page.set_enabled("choose" in can)
        for name in ("ask", "stop", "more", "again", "clear", "save"):
            getattr(controls, name).disabled = name not in can
        several = len(session.conversations)
        controls.ask.description = f"Ask about all {several}" if several > 1 else "Ask"


def _how_made_square(llava: Any) -> str:
    """Say what becomes of a picture that is not square, as the model was published."""
    image_processor = getattr(llava.processor, "image_processor", None)
    if getattr(image_processor, "do_pad", False):
        return "padded"
    return "only the middle square" if getattr(image_processor, "do_center_crop", False) else ""


def pressed_enter(before: str, now: str) -> bool:
    """Whether a text changed by one new line at its end: a text area tells of no keys."""
    return now.endswith("\n") and now.count("\n") == before.count("\n") + 1


def paths_in(text: str) -> list[str]:
    """Return what stands on each line, without the quotes that file managers put around it."""
    lines = (line.strip() for line in text.splitlines())
    return [line[1:-1] if re.fullmatch(QUOTED, line) else line for line in lines if line]
