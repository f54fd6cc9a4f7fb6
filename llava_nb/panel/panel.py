"""`caption_panel(llava)`: a picture in, a question, the answer word by word, a Stop that stops.

A box of ipywidgets in a notebook cell: no server, no public link, no listening socket. What the
widgets (`controls.py`) do: a click is a method of the session (`state.py`), the worker does what
follows (`worker.py`), and the widgets show it. Nothing is printed: what a callback prints is lost.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipywidgets import Layout

from ..catalog import find
from ..errors import LlavaNbError, plain
from ..gpu import check_gpu, recommend
from ..images import example_picture
from ..prompts import DEFAULT_PROMPT, DEFAULT_STYLE, check_question
from ..vram.report import vram_report
from . import html
from .controls import Controls, named_html, set_class, show
from .page import TEXT_NAMES, PageLink
from .sources import Source, paths_in, pressed_enter, sources_of
from .state import ANSWERING, IDLE, LOADING, OPENING, STOPPING, Entry, Notice, Session
from .texts import presets_in, texts_of
from .worker import Worker

EXAMPLES = (
    ("one_shape.png", "What is in this picture?"),
    ("two_shapes.png", DEFAULT_PROMPT),
    ("three_shapes.png", "How many things are there?"),
)
LABELS = ("talk", "question", "by_path")  # of what the page names for screen readers
COMPARED = (0.0, 0.7)  # temperatures to compare with
OTHER_STYLE = "chatml"  # to compare with, or the default style where this is the model's own

# The last session of each model in which something was asked, for a cell that is run again.
_last: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def caption_panel(
    llava: Any = None,
    *,
    title: str = "",
    examples: Sequence[tuple[Any, str]] | None = None,
    presets: Sequence[str | tuple[str, str]] | None = None,
    language: str = "en",
) -> CaptionPanel:
    """Return the panel for a loaded model; as the last line of a cell it is shown.

    Without a model the panel offers those that fit this machine and loads one. `examples` are
    (picture, question), with anything that `open_image` takes; `presets` are questions, or (label,
    question); `language` is "en" or "ko". Raises LlavaNbError for anything else, and ImageError for
    an example that cannot be opened.
    """
    if llava is not None and (isinstance(llava, type) or not hasattr(llava, "chat")):
        raise LlavaNbError(
            f"caption_panel takes a loaded model, not {plain(repr(llava))}: "
            "caption_panel(llava_nb.load()), or caption_panel() to load one in the panel."
        )
    texts = texts_of(language)
    pairs = [(each, each) if isinstance(each, str) else each for each in presets or ()]
    chosen = pairs if presets is not None else presets_in(language)
    if examples is None:
        examples = [(example_picture(name), question) for name, question in EXAMPLES]
    for name, given in (("examples", examples), ("presets", chosen)):
        if not all(isinstance(each, Sequence) and len(each) == 2 for each in given):
            raise LlavaNbError(
                f"{name} is a list of pairs: caption_panel(llava, "
                'examples=[("cat.jpg", "Which breed?")], presets=[("Breed", "Which breed?")]).'
            )
    return CaptionPanel(llava, texts, title, examples, chosen)


class CaptionPanel(widgets.VBox):
    """The panel. Made by `caption_panel()`.

    `choose`, `ask`, `compare`, `stop`, `load` and `save` do in code what the controls do, and the
    panel shows it.
    """

    def __init__(
        self,
        llava: Any,
        texts: Mapping[str, str],
        title: str,
        examples: Sequence[tuple[Any, str]],
        presets: Sequence[tuple[str, str]],
    ) -> None:
        self._texts = texts
        self._record_name = f"captions-{datetime.now():%Y%m%d-%H%M%S}"
        self._shown = Session(phase="")  # none yet
        self._in_the_box: str | None = None  # what the question box holds, as far as known
        self._turns: dict[int, widgets.HTML] = {}
        self._quantizations: dict[str, str | None] = {}  # by the models that are offered
        self._before = None if llava is None else _last.get(llava)
        session = Session(llava is not None, draft=DEFAULT_PROMPT, first_question=DEFAULT_PROMPT)
        self._worker = Worker(llava, session, self._show, self._load, texts)
        guarded = self._worker.guarded
        self._page = PageLink(on_pictures=guarded(self._choose), on_ask=guarded(self._ask_typed))
        self._page.set_texts({name: texts[name] for name in (*TEXT_NAMES, *LABELS)})
        self._examples = [(sources_of((picture,))[0], text) for picture, text in examples]
        cards = []
        for source, text in self._examples:
            opened = source.open()
            cards.append((html.picture(opened.name, opened.thumbnail), text))
        self._presets = presets
        others: list[dict[str, Any]] = [{"temperature": each} for each in COMPARED]
        if llava is None or getattr(llava, "style", None):
            style = OTHER_STYLE if getattr(llava, "style", "") != OTHER_STYLE else DEFAULT_STYLE
            others.append({"style": style})
        compared = [(texts["nothing"], {})]
        compared += [(html.said_settings(each, texts), each) for each in others]
        why = self._models_that_fit() if llava is None else ""
        names = list(self._quantizations)
        self.controls = Controls(self._page, texts, title, cards, presets, compared, names)
        self.controls.why.value = f"<span>{html.escape(why)}</span>"
        self._connect()
        super().__init__(self.controls.all, layout=Layout(width="auto"))
        self.add_class("llava-panel")
        if hasattr(self, "_ipython_display_"):  # and 7 by that
            self.on_displayed(lambda _: self._page.display_script())
        self._show(session)

    def _repr_mimebundle_(self, **options: Any) -> Any:  # ipywidgets 8 is shown by this
        self._page.display_script()
        return super()._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        name = "no model yet" if self.llava is None else self.llava.name
        return f"<CaptionPanel of {name}, {len(self.history)} answer(s)>"

    @property
    def llava(self) -> Any:
        """The model that answers; None until one is loaded."""
        return self._worker.llava

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

    def load(self, model: str) -> None:
        """Load a model by its short name, in a panel that has none yet, and wait for it."""
        self._worker.do(Session.load, find(model).name)
        self.wait()

    def choose(self, *sources: Any) -> None:
        """Choose pictures: whatever `open_image` takes, or a dict of named bytes.

        Waits until they are open; those that cannot be read are told in the panel.
        """
        self._choose(sources_of(sources))
        self.wait()

    def ask(self, question: str | None, **settings: Any) -> tuple[Entry, ...]:
        """Ask about each chosen picture, wait, and return what came of it.

        None is the question in the box. `settings` are max_new_tokens, temperature, top_p and
        style (of the prompt); by default those of the panel. Raises PromptError for a question that
        is no text.
        """
        return self._ask_and_wait(self._question(question, settings))

    def compare(
        self, question: str | None, other: Any = None, **settings: Any
    ) -> tuple[Entry, ...]:
        """Ask twice, as `ask` without settings does and with these, and show both side by side.

        `other` is another loaded model to ask. What is asked next goes on from the first answer.
        Raises LlavaNbError if nothing is other.
        """
        if other is None and not settings:
            raise LlavaNbError(
                "Nothing to compare with: panel.compare(question, temperature=0.7), "
                'panel.compare(question, style="chatml") or panel.compare(question, other=llava).'
            )
        first = self._question(question)
        return self._ask_and_wait(first, self._beside(first, settings, other))

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
            controls.load: lambda: do(Session.load, controls.models.value),
            controls.ask: self._pressed,
            controls.more: lambda: do(Session.go_on, self._question("")),
            controls.again: lambda: do(Session.regenerate, self._question("")),
            controls.clear: lambda: do(Session.clear),
            controls.save: self._save,
            controls.resume: lambda: do(Session.resume, self._before),
        }
        for button, (source, text) in zip(controls.examples, self._examples, strict=True):
            clicks[button] = lambda source=source, text=text: self._choose((source,), text)
        for button, (_, text) in zip(controls.presets, self._presets, strict=True):
            clicks[button] = lambda text=text: self._suggest(text)
        for button, action in clicks.items():
            button.on_click(guarded(lambda _, action=action: action()))
        controls.question.observe(guarded(self._typed), "value")
        controls.path.observe(guarded(self._path_typed), "value")

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
        name = getattr(self.llava, "name", "")
        return Entry(prompt=prompt, settings=chosen | settings, asked_at=at, model=name)

    def _beside(self, question: Entry, settings: Mapping[str, Any], other: Any = None) -> Entry:
        """The same question with other settings, or for another model."""
        said = [html.said_settings(settings, self._texts)] if settings else []
        if other is not None:
            said.insert(0, f"{other.name} {self._texts[str(other.quantization)]}")
        variant, name = ", ".join(said), question.model if other is None else other.name
        self._worker.others = {} if other is None else {variant: other}
        settings = question.settings | settings
        return replace(question, variant=variant, how="beside", settings=settings, model=name)

    def _ask(self, question: Entry) -> None:
        beside = self.controls.compare.value
        more = (self._beside(question, beside),) if beside else ()
        self._worker.do(Session.ask, question, *more)

    def _ask_and_wait(self, *questions: Entry) -> tuple[Entry, ...]:
        before = len(self.history)
        self._worker.do(Session.ask, *questions)
        self.wait()
        return self.history[before:]

    def _ask_typed(self, text: str) -> None:
        self._ask(self._question(text))

    def _pressed(self) -> None:
        """Do what the one button beside the question does at this moment."""
        if self.state.phase in (ANSWERING, OPENING):
            if "stop" in self.state.can:  # else it is the second click of two on Ask
                self.stop()
        else:
            self._ask(self._question())

    def _suggest(self, text: str) -> None:
        """Ask a suggested question, or write it down until there is something to ask about."""
        if "ask" not in self.state.can:
            self._worker.do(Session.typed, text)
            return
        typed, offered = self.state.draft, self.state.first_question
        self._ask(self._question(text))
        if typed != offered:  # somebody's own text stays in the box
            self._worker.do(Session.typed, typed)

    def _choose(self, sources: tuple[Source, ...], question: str | None = None) -> None:
        """Have pictures opened, and ask the question about them."""
        names = plain(", ".join(source.name for source in sources), 100)
        then_ask = () if question is None or self.llava is None else (self._question(question),)
        self._worker.do(Session.choose, sources, names, then_ask)

    def _open_paths(self, text: str) -> None:
        if paths := paths_in(text):
            self._choose(sources_of(paths))
        else:
            self._worker.do(Session.tell, "no_path")

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
                self._ask_typed(text.rstrip("\n"))
            else:
                self._worker.do(Session.typed, text)

    def _save(self) -> None:
        self._worker.do(Session.tell, "saved", "info", ", ".join(map(str, self.save())))

    def _models_that_fit(self) -> str:
        """Note which models fit this machine, the best first; return why it is the best."""
        report = check_gpu()
        best = recommend(report)
        names = [best.model, *(each.model for each in reversed(report.verdicts) if each.fits)]
        self._quantizations = dict.fromkeys(names, "4bit") | {best.model: best.quantization}
        return f"{self._texts['these_fit']} {best}."

    def _load(self, model: str) -> Any:
        """In a job's thread: load a model."""
        from ..loading.load import load  # which imports torch and transformers

        made = load(model, quantization=self._quantizations.get(model, "4bit"))
        self._before = _last.get(made)
        return made

    # From the session to the widgets.

    def _show(self, session: Session) -> None:
        """Show a session. Whatever goes wrong is told in the notice.

        Showing it twice changes nothing, so it does not matter which update was lost. Text that
        somebody is typing is left alone.
        """
        try:
            self._update(session)
        except BaseException as error:
            shown = Notice("error", self._worker.explain(error))
            self.controls.notice.value = html.notice(shown, self._texts)

    def _update(self, session: Session) -> None:
        controls, before = self.controls, self._shown
        if session.draft != self._in_the_box:  # first: who sees a picture may be typing
            self._in_the_box = controls.question.value = session.draft  # in this order: see _typed
        self._enable(session)
        square = html.how_made_square(self.llava, self._texts)
        controls.pictures.value = html.pictures(session, square)
        set_class(controls.left, "bare", not session.conversations)
        ended = session.phase == IDLE and before.phase != IDLE
        self._show_turns(html.turns(session, self._texts), again=ended)
        more = self._progress(session) if session.phase == LOADING else ""
        controls.notice.value = html.notice(session.notice, self._texts, more)
        if ended or len(session.todo) < len(before.todo):
            report = None if self.llava is None else vram_report(self.llava)
            controls.model.value = html.model_line(self.llava, report, self._texts)
            if report is not None:
                controls.memory.value = html.memory_bar(report, self._texts)
                controls.details.value = report._repr_html_()
        if session.history and self.llava is not None:
            _last[self.llava] = session
        self._shown = session

    def _show_turns(self, turns: Mapping[int, str], *, again: bool) -> None:
        """Show each question with its answers in a widget of its own, so that only one changes."""
        controls = self.controls
        for number, value in turns.items():
            if number not in self._turns:
                self._turns[number] = named_html("answers")
            self._turns[number].value = value
        gone = [self._turns.pop(number) for number in set(self._turns) - set(turns)]
        shown = (*controls.before, *self._turns.values(), *controls.after)
        if controls.thread.children != shown:
            controls.thread.children = shown
        for each in gone:
            each.close()
        if again and self._turns:  # once more: the update before may have been lost on the way
            self._turns[max(self._turns)].send_state("value")
        show(controls.empty, not turns and self.llava is not None)

    def _progress(self, session: Session) -> str:
        """How far a model has been loaded."""
        from ..loading.find import fetched_bytes  # for the reason above

        info = find(session.job.model)
        done = min(fetched_bytes(info.hub_id), info.download_bytes) if info.hub_id else 0
        said = [self._texts["seconds"].format(about=int(session.seconds))]
        if done < info.download_bytes:
            sizes = {"done": html.gib(done), "all": html.gib(info.download_bytes)}
            said.insert(0, self._texts["fetched"].format(**sizes))
        return "".join(f" · {each}" for each in said)

    def _enable(self, session: Session) -> None:
        controls, can = self.controls, session.can
        for widget in (controls.open, *controls.examples):
            widget.disabled = "choose" not in can
        self._page.set_enabled("choose" in can)
        for name in ("clear", "save", "load"):
            getattr(controls, name).disabled = name not in can
        for name in ("more", "again"):
            show(getattr(controls, name), name in can)
        show(controls.loader, not session.has_model and session.phase != LOADING)
        show(controls.all_examples, not session.conversations)
        show(controls.resume, "resume" in can and self._before is not None)
        if self._before is not None:
            answers = len(self._before.history)
            controls.resume.description = self._texts["resume"].format(about=answers)
        is_stop = session.phase in (ANSWERING, STOPPING) or "stop" in can
        several, texts = len(session.conversations), self._texts
        ask = texts["ask_all"].format(about=several) if several > 1 else texts["ask"]
        with controls.ask.hold_sync():  # in one message: a Stop too early could be pressed
            controls.ask.description = texts["stop"] if is_stop else ask
            set_class(controls.ask, "stops", is_stop)
            controls.ask.disabled = not can & {"ask", "stop"}
