"""The panel's work, in a thread of its own: pictures opened, questions answered.

The kernel's main thread has to stay free, or no Stop would ever be heard. Text is reported
about ten times a second, because a front end that is flooded loses the last updates. Whatever
goes wrong here, an exit or an interrupt included, is reported; and every job is reported ended.
Not covered: what follows from a report (`state.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from ..inference.answer import Answer
from .data import Task
from .events import Answered, Begin, Ended, Failed, Opened, OpenPictures, Piece
from .pictures import PanelPicture, open_source

if TYPE_CHECKING:
    from ..inference.chat import Chat
    from ..inference.llava import Llava

PACE = 0.1  # seconds between two reports of an answer under way
MOST = 8  # pictures side by side
TOO_MANY = (
    "Only the first {most} of {all} pictures were taken. For many, caption a folder: "
    'caption_folder(llava, "pictures", "captions.csv").'
)


class Talks:
    """The model's side of the conversations: one chat for each picture on the desk."""

    def __init__(self, llava: Llava) -> None:
        self.llava = llava
        self._chats: dict[int, Chat] = {}

    def keep(self, keys: Collection[int]) -> None:
        """Let go of the conversations about other pictures, and so of the pictures."""
        self._chats = {key: chat for key, chat in self._chats.items() if key in keys}

    def stream(self, task: Task, stop: threading.Event) -> Iterator[str]:
        """Give the new pieces of an answer; at its end `last` has all of it."""
        key, entry = task.subject.key, task.entry
        chat = self._chats.get(key)
        if chat is None:
            chat = self.llava.chat(task.subject.picture.seen, forget_oldest=True)
            self._chats[key] = chat
        settings = _arguments(entry.settings) | {"stop": stop}
        if entry.how == "more":
            return chat.go_on(**settings)
        if entry.how == "again":
            return _again(chat, entry.prompt, settings)
        return chat.stream(entry.prompt, **settings)

    def last(self, task: Task) -> Answer:
        """Return the last answer of a task's conversation."""
        return self._chats[task.subject.key].turns[-1].answer


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the model takes; the share of likely words only matters in a draw."""
    share = settings.get("top_p") if settings["temperature"] else None
    return {
        "max_new_tokens": settings["max_new_tokens"],
        "temperature": settings["temperature"],
        "top_p": share if share != 1 else None,
    }


def _again(chat: Chat, question: str, settings: dict[str, Any]) -> Iterator[str]:
    """Answer the last question anew; if that fails, the old answer stays."""
    forgotten, turns = chat.forgotten, list(chat.turns)
    chat.undo()
    try:
        yield from chat.stream(question, **settings)
    except BaseException:
        chat.turns[:], chat.forgotten = turns, forgotten
        raise


class Worker:
    """Does jobs in threads and calls `report` with what comes of them.

    `explain` makes the message for the person from whatever was raised. `report` has to
    return; what it raises ends the job.
    """

    def __init__(
        self, llava: Llava, report: Callable[[Any], None], explain: Callable[[BaseException], str]
    ) -> None:
        self.talks = Talks(llava)
        self._report, self._explain = report, explain
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the last job is still under way."""
        return self._thread is not None and self._thread.is_alive()

    def open(self, effect: OpenPictures, *, pads: bool) -> None:
        """Open pictures; those that cannot be read are told, the others shown."""
        self._start(effect.job, lambda stop: self._open(effect, pads, stop))

    def answer(self, effect: Begin) -> None:
        """Answer one task after the other."""
        self._start(effect.job, lambda stop: self._answer(effect, stop))

    def halt(self) -> None:
        """End the answer under way within two tokens, and begin no other."""
        self._stop.set()

    def _start(self, job: int, work: Callable[[threading.Event], None]) -> None:
        self._stop.set()  # a job given up, if there is one, need not go on
        self._stop = stop = threading.Event()

        def run() -> None:
            try:
                work(stop)
            finally:
                self._report(Ended(job))

        self._thread = threading.Thread(target=run, name="llava_nb panel", daemon=True)
        self._thread.start()

    def _open(self, effect: OpenPictures, pads: bool, stop: threading.Event) -> None:
        pictures: list[PanelPicture] = []
        problems: list[str] = []
        for source in effect.sources[:MOST]:
            if stop.is_set():
                return
            try:
                pictures.append(open_source(source, pads=pads))
            except BaseException as error:
                problems.append(self._explain(error))
        if len(effect.sources) > MOST:
            problems.append(TOO_MANY.format(most=MOST, all=len(effect.sources)))
        self._report(Opened(effect.job, tuple(pictures), tuple(problems)))

    def _answer(self, effect: Begin, stop: threading.Event) -> None:
        self.talks.keep({task.subject.key for task in effect.tasks})
        for task in effect.tasks:
            if stop.is_set():
                return
            try:
                self._report(self._one(effect.job, task, stop))
            except BaseException as error:
                self._report(Failed(effect.job, self._explain(error)))

    def _one(self, job: int, task: Task, stop: threading.Event) -> Answered:
        text, told = "", 0.0
        try:
            for piece in self.talks.stream(task, stop):
                text += piece
                if time.monotonic() - told >= PACE:
                    self._report(Piece(job, text))
                    told = time.monotonic()
        except BaseException:
            self._report(Piece(job, text))  # what was said before it broke off
            raise
        return Answered(job, self.talks.last(task))
