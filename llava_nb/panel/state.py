"""What the panel shows, and what follows when something happens: no widgets, no threads.

Three rules hold, whatever happens in whatever order. Every busy phase ends with the job that began
it. Each picture has a key of its own, to which its conversation belongs, and what an earlier job
reports changes nothing: so no answer is ever shown for another picture. What was asked stays in
the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

IDLE, LOADING, OPENING = "idle", "loading", "opening"
ANSWERING, STOPPING = "answering", "stopping"
BROKE_OFF = "The answer broke off. Press Regenerate, or ask again."  # it stands in the record too


@dataclass(frozen=True)
class Entry:
    """One question about one picture and what came of it: a row of the record.

    `number` counts from 1 in the record; 0 is not there yet. `finish` is that of `Answer`, or
    "failed" with the `error` to show; `answer` has the figures, if there are any. `key` is the
    conversation's, `turn` that of the question, also where several answer it. `how` is "ask",
    "again" (in place of the last answer), "more" (the last answer gone on with) or "beside" (for
    comparison: the conversation goes on without it), and `variant` then says what was other than
    in the answer that it stands beside. `thumbnail` is a data URI.
    """

    picture: str = ""
    prompt: str = ""
    number: int = 0
    text: str = ""
    finish: str = ""
    error: str = ""
    variant: str = ""
    key: int = field(default=0, repr=False)
    turn: int = field(default=0, repr=False)
    how: str = field(default="ask", repr=False)
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    asked_at: str = field(default="", repr=False)
    model: str = field(default="", repr=False)
    answer: Any = field(default=None, repr=False)
    thumbnail: str = field(default="", repr=False)

    @property
    def failed(self) -> bool:
        """Whether something went wrong; the model was then not told of it."""
        return self.finish == "failed"

    @property
    def unfinished(self) -> bool:
        """Whether the answer can be gone on with."""
        return self.finish in ("limit", "stopped")


@dataclass(frozen=True)
class Conversation:
    """A picture (anything with `name` and `thumbnail`) and what is shown below it."""

    key: int
    picture: Any
    entries: tuple[Entry, ...] = ()

    @property
    def answered(self) -> tuple[Entry, ...]:
        """What the model knows of it: without what failed and what was said for comparison."""
        return tuple(each for each in self.main if not each.failed)

    @property
    def main(self) -> tuple[Entry, ...]:
        """What is shown, without what was said for comparison."""
        return tuple(each for each in self.entries if not each.variant)


@dataclass(frozen=True)
class Notice:
    """A line for the person; `kind` is "info", "busy" or "error".

    `text` is the name of a text of the panel (texts.py), in which `about` is put, or the text
    itself.
    """

    kind: str
    text: str
    about: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """Work for a thread: a model to load, sources to open, or questions to answer in a row."""

    model: str = ""
    sources: tuple[Any, ...] = ()
    questions: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Session:
    """Everything that the panel shows. Each method returns the session that follows.

    A new `job` is to be begun at once; while "stopping", the answer under way is to end. `todo` are
    the questions without an answer, the first with `live_text` so far and `seconds` since it was
    begun. `stoppable` is False for a moment, so that a double click on Ask does not hit Stop.
    `draft` is the text in the question box, `first_question` what last began a conversation.
    `then_ask` waits for pictures that are being opened; `waiting` is what `choose` was given while
    something else was under way.
    """

    has_model: bool = True
    draft: str = ""
    first_question: str = ""
    phase: str = IDLE
    conversations: tuple[Conversation, ...] = ()
    history: tuple[Entry, ...] = ()
    job: Job = Job()
    todo: tuple[Entry, ...] = ()
    live_text: str = ""
    seconds: float = 0.0
    stoppable: bool = False
    notice: Notice | None = None
    then_ask: tuple[Entry, ...] = ()
    waiting: tuple[Any, ...] | None = None
    next_key: int = 1
    next_turn: int = 1

    @property
    def can(self) -> frozenset[str]:
        """What there is to press now; the rest is disabled."""
        idle = self.phase == IDLE
        possible = {
            "load": idle and not self.has_model,
            "choose": idle or self.phase == OPENING,
            "stop": self.phase in (OPENING, ANSWERING) and self.stoppable,
            "ask": idle and self.has_model and self.conversations,
            "more": idle and any(map(_is_cut_short, self.conversations)),
            "again": idle and self._was_asked,
            "clear": idle and self._was_asked,
            "save": self.history,
            "resume": idle and not self.history,
        }
        return frozenset(name for name, possible_now in possible.items() if possible_now)

    @property
    def _was_asked(self) -> bool:
        return any(each.entries for each in self.conversations)

    # What a person does.

    def load(self, model: str) -> Session:
        """Have a model loaded."""
        if self.phase != IDLE:
            return self._busy()
        return self._begin(LOADING, Job(model=model)).tell("loading", "busy", model)

    def choose(
        self, sources: tuple[Any, ...], what: str = "", then_ask: tuple[Entry, ...] = ()
    ) -> Session:
        """Have pictures opened; while something else is under way, they come after it."""
        if self.phase in (LOADING, ANSWERING, STOPPING):
            return replace(self, waiting=(sources, what, then_ask)).tell("comes_next", "busy", what)
        session = replace(self._begin(OPENING, Job(sources=sources)), then_ask=then_ask)
        return session.tell("opening", "busy", what)

    def clear(self) -> Session:
        """Begin new conversations about the same pictures."""
        if self.phase != IDLE:
            return self._busy()
        return self._begin_conversations(tuple(each.picture for each in self.conversations))

    def resume(self, before: Session) -> Session:
        """Take over the conversations and the record of another session; only into an empty one."""
        if "resume" not in self.can:
            return self._busy() if self.phase != IDLE else self
        taken = {name: getattr(before, name) for name in ("conversations", "history", "next_turn")}
        keys = max(self.next_key, before.next_key)
        return replace(self, **taken, next_key=keys, draft=before.draft, notice=None)

    def typed(self, text: str) -> Session:
        """Keep what is in the question box."""
        return replace(self, draft=text)

    def ask(self, question: Entry, *beside: Entry) -> Session:
        """Ask about each picture; while they are being opened, as soon as they are there.

        Of `question` the prompt, the settings, the time and the model's name are set. `beside` are
        the same with something else, for comparison.
        """
        session, prompt = replace(self, draft=question.prompt), question.prompt.strip()
        if self.phase == OPENING:
            return replace(session, then_ask=(question, *beside))
        if self.phase != IDLE:
            return session._busy()
        if not self.has_model:
            return session.tell("no_model")
        if not self.conversations:
            return session.tell("no_picture")
        if not prompt:
            return session.tell("no_question")
        if not self._was_asked:
            session = replace(session, first_question=prompt)
        session = replace(session, draft="", next_turn=self.next_turn + 1)
        about = {"prompt": prompt, "turn": self.next_turn}
        return session._begin_answers(
            [
                _about(each, one, **about)
                for each in self.conversations
                for one in (question, *beside)
            ]
        )

    def regenerate(self, question: Entry) -> Session:
        """Answer the last question again; what failed is tried again as it was."""
        if self.phase != IDLE:
            return self._busy()
        questions = []
        for each in self.conversations:
            if each.main:
                last = each.main[-1]
                how = last.how if last.failed else "again"
                if how == "more":
                    questions.append(_further(each, question))
                else:
                    about = {"prompt": last.prompt, "turn": last.turn, "how": how}
                    questions.append(_about(each, question, **about))
        return self._begin_answers(questions) if questions else self.tell("not_asked_yet")

    def go_on(self, question: Entry) -> Session:
        """Go on with each last answer that was cut short."""
        if self.phase != IDLE:
            return self._busy()
        cut_short = filter(_is_cut_short, self.conversations)
        questions = [_further(each, question) for each in cut_short]
        return self._begin_answers(questions) if questions else self.tell("not_cut_short")

    def stop(self) -> Session:
        """End what is under way; loading a model goes on."""
        if self.phase == OPENING:
            return replace(self, phase=IDLE, job=Job(), then_ask=()).tell("not_opened")
        if self.phase == ANSWERING:
            return replace(self, phase=STOPPING, notice=None)
        return self

    def tell(self, text: str, kind: str = "info", about: str = "") -> Session:
        """Show a notice."""
        return replace(self, notice=Notice(kind, text, about))

    # What a job reports.

    def ticked(self, job: Job, seconds: float) -> Session:
        """Count time that has passed."""
        if job is not self.job or self.phase == IDLE:
            return self
        return replace(self, seconds=self.seconds + seconds, stoppable=True)

    def loaded(self, job: Job) -> Session:
        """A model is there."""
        is_due = job is self.job and self.phase == LOADING
        return replace(self, has_model=True) if is_due else self

    def opened(
        self, job: Job, pictures: tuple[Any, ...], problems: tuple[str, ...] = ()
    ) -> Session:
        """Show what was opened; if nothing was, the pictures stay as they are."""
        if job is not self.job or self.phase != OPENING:
            return self  # given up, or something else was chosen since
        session, problem = replace(self, phase=IDLE, then_ask=()), "\n".join(problems)
        if not pictures:
            return session.tell(problem or "nothing_arrived", "error")
        session = session._begin_conversations(pictures)
        if self.then_ask:
            session = session.ask(*self.then_ask)
        return session.tell(problem, "error") if problem else session

    def piece(self, question: Entry, text: str) -> Session:
        """Show the new text of the answer under way, all of it so far."""
        return replace(self, live_text=text) if self._is_live(question) else self

    def answered(self, question: Entry, answer: Any) -> Session:
        """Enter an answer; one made again or gone on with takes the place of the one before."""
        if not self._is_live(question):
            return self
        if question.how == "more":  # its tokens are those of both parts, so its seconds are too
            first = question.answer.first_token_seconds
            both = question.answer.seconds + answer.seconds
            answer = replace(answer, seconds=both, first_token_seconds=first)
        return self._enter(replace(question, text=answer.text, finish=answer.finish, answer=answer))

    def failed(self, question: Entry, message: str) -> Session:
        """Enter what came of it and the repair; the question goes back into the box."""
        if not self._is_live(question):
            return self
        text = question.text + self.live_text
        entry = replace(question, number=0, text=text, finish="failed", error=message, answer=None)
        draft = self.draft or (question.prompt if question.how == "ask" else "")
        return replace(self._enter(entry), draft=draft)

    def ended(self, job: Job) -> Session:
        """The job is done with, or its thread is no longer there."""
        if job is not self.job or self.phase == IDLE:
            return self
        if self.phase == OPENING:
            return self.opened(job, (), ("not_opened_again",))
        session = self
        if self.todo and (self.phase == ANSWERING or self.live_text):
            session = self.failed(self.todo[0], BROKE_OFF)
        left = ", ".join(" ".join((each.picture, each.variant)).strip() for each in session.todo)
        if self.phase == STOPPING and (self.notice is None or self.notice.kind != "error"):
            session = session.tell("stopped_before" if left else "stopped", about=left)
        elif left:
            session = session.tell("not_asked", "error", left)
        elif self.notice is not None and self.notice.kind == "busy":
            session = replace(session, notice=None)
        session = replace(session, phase=IDLE, todo=(), live_text="", waiting=None)
        return session if self.waiting is None else session.choose(*self.waiting)

    def _busy(self) -> Session:
        return self.tell("busy", "busy")

    def _begin(self, phase: str, job: Job) -> Session:
        return replace(self, phase=phase, job=job, seconds=0.0, stoppable=False, notice=None)

    def _begin_conversations(self, pictures: tuple[Any, ...]) -> Session:
        keys = range(self.next_key, self.next_key + len(pictures))
        conversations = tuple(map(Conversation, keys, pictures))
        session = replace(self, conversations=conversations, next_key=keys.stop, notice=None)
        return replace(session, draft=self.draft or self.first_question)

    def _begin_answers(self, questions: list[Entry]) -> Session:
        session = self._begin(ANSWERING, Job(questions=tuple(questions)))
        return replace(session, todo=tuple(questions), live_text="")

    def _is_live(self, question: Entry) -> bool:
        """Whether a report is about the answer under way, not about one that was given up."""
        return bool(self.todo) and self.todo[0] is question

    def _enter(self, entry: Entry) -> Session:
        """Enter what came of the first of `todo`, in the record and in its conversation."""
        place = (entry.number or len(self.history) + 1) - 1
        entry = replace(entry, number=place + 1)
        history = (*self.history[:place], entry, *self.history[place + 1 :])
        conversations = list(self.conversations)
        for at, each in enumerate(conversations):
            if each.key == entry.key:
                kept = (one for one in each.entries if not _gives_way(one, entry))
                conversations[at] = replace(each, entries=(*kept, entry))
        session = replace(self, history=history, conversations=tuple(conversations))
        return replace(session, todo=self.todo[1:], live_text="", seconds=0.0)


def _gives_way(old: Entry, new: Entry) -> bool:
    """Whether an entry is no longer shown: what failed, and what is answered anew."""
    if (old.turn, old.variant) == (new.turn, new.variant):
        return old.failed or not new.failed
    return old.failed and old.turn != new.turn


def _is_cut_short(conversation: Conversation) -> bool:
    return any(entry.unfinished for entry in conversation.answered[-1:])


def _about(conversation: Conversation, question: Entry, **changes: Any) -> Entry:
    """A question, about one picture."""
    picture = conversation.picture
    about = {"key": conversation.key, "picture": picture.name, "thumbnail": picture.thumbnail}
    return replace(question, **about, **changes)


def _further(conversation: Conversation, question: Entry) -> Entry:
    """The last answer of a conversation, to be gone on with."""
    last = conversation.answered[-1]
    kept = {name: getattr(last, name) for name in ("prompt", "turn", "number", "text", "answer")}
    return _about(conversation, question, how="more", **kept)
