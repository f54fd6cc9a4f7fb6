"""The panel at work, still without widgets: one lock around the session, its jobs in threads.

The kernel's main thread has to stay free, or no Stop would ever be heard. What happens comes from
callbacks and from jobs, in any thread; the lock puts it in a row. Nothing raised is lost or leaves
the panel stuck: it becomes a notice, and a job whose thread is gone is ended.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import LlavaNbError, plain
from .state import IDLE, LOADING, OPENING, STOPPING, Entry, Session

PACE = 0.1  # seconds between two reports of an answer: a page that is flooded loses the last ones
HOLD = 0.5  # seconds until Stop may be pressed: two clicks on Ask are one double click until then
MOST = 8  # pictures side by side


class Worker:
    """Keeps a session, does the jobs that it asks for, and calls `show` with each that follows.

    `load` is given the name of a model and returns it. `llava` is the model that answers, `others`
    those that do for comparison, by what is other in them. `faults` has the tracebacks of the last
    20 errors that were not expected, as text: kept as they are, they would hold memory.
    """

    def __init__(
        self,
        llava: Any,
        session: Session,
        show: Callable[[Session], None],
        load: Callable[[str], Any],
        texts: Mapping[str, str],
    ) -> None:
        self.session, self.llava = session, llava
        self.others: dict[str, Any] = {}
        self.faults: deque[str] = deque(maxlen=20)
        # Held while the session is changed and shown; a thread may take it again.
        self.lock = threading.Condition(threading.RLock())
        self._show, self._load_model, self._texts = show, load, texts
        self._chats: dict[int, Any] = {}  # the model's side of the conversations, by their keys
        self._halt, self._thread = threading.Event(), threading.Thread()

    def do(self, change: Callable[..., Session], *arguments: Any) -> None:
        """Let something happen, such as `do(Session.ask, question)`, and show what follows."""
        with self.lock:
            try:
                self._follow(change(self.session, *arguments))
                if self.session.phase != IDLE and not self._thread.is_alive():
                    self._follow(self.session.ended(self.session.job))  # it did not say so itself
                self._show(self.session)
            finally:
                self.lock.notify_all()

    def _follow(self, session: Session) -> None:
        """Make this the session, and begin or end what it asks for."""
        before, self.session = self.session, session
        if session.conversations is not before.conversations:  # let go of pictures that are gone
            kept = {each.key for each in session.conversations}
            self._chats = {key: chat for key, chat in self._chats.items() if key in kept}
        try:
            if session.job is not before.job:
                self._halt.set()  # a job given up, if there is one, need not go on
                if session.phase != IDLE:
                    self._start(session)
            elif session.phase == STOPPING:
                self._halt.set()  # the answer ends within two tokens, and no other begins
        except BaseException as error:  # no thread can be started, or an interrupt came
            message = self.explain(error)
            if session.phase == OPENING:
                self._follow(session.opened(session.job, (), (message,)))
            elif session.todo:
                self._follow(session.failed(session.todo[0], message))
            else:
                self._follow(session.tell(message, "error"))

    def _start(self, session: Session) -> None:
        self._halt = halt = threading.Event()
        work = {LOADING: self._load, OPENING: self._open}.get(session.phase, self._answer)
        done = threading.Event()

        def run() -> None:
            try:
                work(session, halt)
            finally:
                done.set()
                self.do(Session.ended, session.job)

        def tick() -> None:
            for step in itertools.chain((HOLD, 1 - HOLD), itertools.repeat(1.0)):
                if done.wait(step):
                    return
                self.do(Session.ticked, session.job, step)

        self._thread = threading.Thread(target=run, name="llava_nb panel", daemon=True)
        self._thread.start()
        threading.Thread(target=tick, name="llava_nb panel's clock", daemon=True).start()

    def _load(self, session: Session, halt: threading.Event) -> None:
        try:
            self.llava = self._load_model(session.job.model)
            self.do(Session.loaded, session.job)
        except BaseException as error:
            self.do(Session.tell, self.explain(error), "error")

    def _open(self, session: Session, halt: threading.Event) -> None:
        """Open pictures; those that cannot be read are told, the others shown."""
        pictures, problems, sources = [], [], session.job.sources
        for source in sources[:MOST]:
            if halt.is_set():
                return
            try:
                pictures.append(source.open())
            except BaseException as error:
                problems.append(self.explain(error))
        if len(sources) > MOST:
            problems.append(self._texts["too_many"].format(most=MOST, all=len(sources)))
        self.do(Session.opened, session.job, tuple(pictures), tuple(problems))

    def _answer(self, session: Session, halt: threading.Event) -> None:
        conversations = {each.key: each for each in session.conversations}
        for question in session.job.questions:
            if halt.is_set():
                return
            text, reported = "", 0.0
            try:
                # What had been answered when the question was asked, so that what is compared has
                # been told the same.
                conversation = conversations[question.key]
                if question.how == "beside":
                    llava = self.others.get(question.variant, self.llava)
                    chat = _chat_of(llava, conversation)
                else:
                    llava, chat = self.llava, self._chats.get(question.key)
                    if chat is None:
                        chat = self._chats[question.key] = _chat_of(llava, conversation)
                for piece in _stream(llava, chat, question, halt):
                    text += piece
                    if time.monotonic() - reported >= PACE:
                        self.do(Session.piece, question, text)
                        reported = time.monotonic()
                self.do(Session.answered, question, chat.turns[-1].answer)
            except BaseException as error:  # an exit or an interrupt included
                self.do(Session.piece, question, text)  # what was said before it broke off
                self.do(Session.failed, question, self.explain(error))

    def guarded(self, action: Callable[..., Any]) -> Callable[..., None]:
        """Return `action` as a callback: what it raises is told in the panel."""

        def call(*arguments: Any) -> None:
            try:
                action(*arguments)
            except BaseException as error:  # an interrupt too: the widget library drops it
                self.do(Session.tell, self.explain(error), "error")

        return call

    def explain(self, error: BaseException) -> str:
        """Return what to tell the person, and keep the traceback of what was not expected."""
        if isinstance(error, LlavaNbError):
            return str(error)
        if isinstance(error, KeyboardInterrupt):
            return self._texts["interrupted"]
        self.faults.append("".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {plain(error, 300)}. {self._texts['fault']}"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False after `timeout` seconds. An interrupt stops."""
        try:
            with self.lock:
                return self.lock.wait_for(lambda: self.session.phase == IDLE, timeout)
        except KeyboardInterrupt:
            self.do(Session.stop)
            raise


def _chat_of(llava: Any, conversation: Any) -> Any:
    """Begin a chat that knows what was answered before."""
    from ..inference.chat import Turn  # which imports torch; a loaded model has

    chat = llava.chat(conversation.picture.image, forget_oldest=True)
    chat.turns.extend(Turn(each.prompt, each.answer) for each in conversation.answered)
    return chat


def _stream(llava: Any, chat: Any, question: Entry, stop: threading.Event) -> Iterator[str]:
    """Give the new pieces of an answer; at its end the last turn of the chat has all of it."""
    settings = question.settings | {"stop": stop}
    style = settings.pop("style", None)
    if not settings["temperature"]:
        settings["top_p"] = None  # it only matters in a draw
    if question.how == "more":
        return chat.go_on(**settings)
    if question.how == "again":
        return chat.stream_again(**settings)
    before = getattr(llava, "style", None)
    try:
        if style is not None:
            llava.style = style  # the prompt is written in it at this call; the pieces come later
        return chat.stream(question.prompt, **settings)
    finally:
        if style is not None:
            llava.style = before
