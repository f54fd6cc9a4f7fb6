"""What the panel shows, and what follows when something happens: no widgets, no threads.

Three rules hold, whatever happens in whatever order. Every busy phase ends with the job that began
it. Each picture has a key of its own, to which its conversation belongs, and what an earlier job
reports changes nothing: so no answer is ever shown for another picture. What was asked stays in
the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

IDLE, OPENING, ANSWERING, STOPPING = "idle", "opening", "answering", "stopping"


@dataclass(frozen=True)
class Entry:
    """One question about one picture and what came of it: a row of the record.

    `number` counts from 1 in the record; 0 is not there yet. `finish` is that of `Answer`, or
    "failed" with the `error` to show; `answer` has the figures, if there are any. `key` is the
    conversation's. `how` is "ask", "again" (in place of the last answer) or "more" (the last
    answer gone on with). `thumbnail` is a data URI.
    """

    picture: str = ""
    prompt: str = ""
    number: int = 0
    text: str = ""
    finish: str = ""
    error: str = ""
    key: int = field(default=0, repr=False)
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
        """What the model knows of it: without what failed."""
        return tuple(entry for entry in self.entries if not entry.failed)


@dataclass(frozen=True)
class Notice:
    """A line for the person; `kind` is "info", "busy" or "error"."""

    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Job:
    """Work for a thread: sources to open, or questions to answer one after the other."""

    sources: tuple[Any, ...] = ()
    questions: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Session:
    """Everything that the panel shows. Each method returns the session that follows.

    A new `job` is to be begun at once; while "stopping", the answer under way is to end. `todo` are
    the questions without an answer, the first with `live_text` so far. `draft` is the text in the
    question box, `first_question` what last began a conversation. `then_ask` waits for pictures
    that are being opened; `waiting` is what `choose` was given while an answer was under way.
    """

    draft: str = ""
    first_question: str = ""
    phase: str = IDLE
    conversations: tuple[Conversation, ...] = ()
    history: tuple[Entry, ...] = ()
    job: Job = Job()
    todo: tuple[Entry, ...] = ()
    live_text: str = ""
    notice: Notice | None = None
    then_ask: Entry | None = None
    waiting: tuple[Any, ...] | None = None
    next_key: int = 1

    @property
    def can(self) -> frozenset[str]:
        """What there is to press now; the rest is disabled."""
        idle = self.phase == IDLE
        possible = {
            "choose": idle or self.phase == OPENING,
            "stop": self.phase in (OPENING, ANSWERING),
            "ask": idle and self.conversations,
            "more": idle and any(map(_is_cut_short, self.conversations)),
            "again": idle and self._was_asked,
            "clear": idle and self._was_asked,
            "save": self.history,
        }
        return frozenset(name for name, possible_now in possible.items() if possible_now)

    @property
    def _was_asked(self) -> bool:
        return any(each.entries for each in self.conversations)

    # What a person does.

    def choose(
        self, sources: tuple[Any, ...], what: str = "the picture", then_ask: Entry | None = None
    ) -> Session:
        """Have pictures opened; while an answer is under way, they come after it."""
        if self.phase in (ANSWERING, STOPPING):
            text = f"{what[:1].upper()}{what[1:]} comes as soon as this answer has ended."
            return replace(self, waiting=(sources, what, then_ask)).tell(text, "busy")
        session = replace(self, phase=OPENING, job=Job(sources=sources), then_ask=then_ask)
        return session.tell(f"Opening {what} ...", "busy")

    def clear(self) -> Session:
        """Begin new conversations about the same pictures."""
        if self.phase != IDLE:
            return self._busy()
        return self._begin_conversations(tuple(each.picture for each in self.conversations))

    def typed(self, text: str) -> Session:
        """Keep what is in the question box."""
        return replace(self, draft=text)

    def ask(self, question: Entry) -> Session:
        """Ask about each picture; while they are being opened, as soon as they are there.

        Of `question` the prompt, the settings, the time and the model's name are set.
        """
        session, prompt = replace(self, draft=question.prompt), question.prompt.strip()
        if self.phase == OPENING:
            return replace(session, then_ask=question)
        if self.phase != IDLE:
            return session._busy()
        if not self.conversations:
            return session.tell("Choose a picture first: upload one, or click an example.")
        if not prompt:
            return session.tell("Write a question first, or choose one from the list.")
        if not self._was_asked:
            session = replace(session, first_question=prompt)
        questions = [_about(each, question, prompt=prompt) for each in self.conversations]
        return replace(session, draft="")._begin_answers(questions)

    def regenerate(self, question: Entry) -> Session:
        """Answer the last question again; what failed is tried again as it was."""
        if self.phase != IDLE:
            return self._busy()
        questions = []
        for each in self.conversations:
            if each.entries:
                last = each.entries[-1]
                how = last.how if last.failed else "again"
                if how == "more":
                    questions.append(_further(each, question))
                else:
                    questions.append(_about(each, question, prompt=last.prompt, how=how))
        return self._begin_answers(questions) if questions else self.tell("Nothing was asked yet.")

    def go_on(self, question: Entry) -> Session:
        """Go on with each last answer that was cut short."""
        if self.phase != IDLE:
            return self._busy()
        cut_short = filter(_is_cut_short, self.conversations)
        questions = [_further(each, question) for each in cut_short]
        if not questions:
            return self.tell("No answer was cut short.")
        return self._begin_answers(questions)

    def stop(self) -> Session:
        """End what is under way."""
        if self.phase == OPENING:
            session = replace(self, phase=IDLE, job=Job(), then_ask=None)
            return session.tell("Not opened. Choose a picture, or go on with what is here.")
        if self.phase == ANSWERING:
            return replace(self, phase=STOPPING).tell("Stopping ...", "busy")
        return self

    def tell(self, text: str, kind: str = "info") -> Session:
        """Show a notice."""
        return replace(self, notice=Notice(kind, text))

    # What a job reports.

    def opened(
        self, job: Job, pictures: tuple[Any, ...], problems: tuple[str, ...] = ()
    ) -> Session:
        """Show what was opened; if nothing was, the pictures stay as they are."""
        if job is not self.job or self.phase != OPENING:
            return self  # given up, or something else was chosen since
        session, problem = replace(self, phase=IDLE, then_ask=None), "\n".join(problems)
        if not pictures:
            return session.tell(problem or "No picture arrived: choose it again.", "error")
        session = session._begin_conversations(pictures)
        if self.then_ask is not None:
            session = session.ask(self.then_ask)
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
        return replace(self._enter(entry), draft=draft).tell(message, "error")

    def ended(self, job: Job) -> Session:
        """The job is done with, or its thread is no longer there."""
        if job is not self.job or self.phase == IDLE:
            return self
        if self.phase == OPENING:
            return self.opened(job, (), ("The picture could not be opened: choose it again.",))
        session = self
        if self.todo and (self.phase == ANSWERING or self.live_text):
            message = "The answer broke off. Press Regenerate, or ask again."
            session = self.failed(self.todo[0], message)
        left = ", ".join(entry.picture for entry in session.todo)
        not_asked, notice = f" Not asked: {left}." if left else "", session.notice
        if self.phase == STOPPING and (notice is None or notice.kind != "error"):
            session = session.tell(f"Stopped.{not_asked}")
        elif notice is not None and notice.kind == "busy":
            session = replace(session, notice=None)
        elif left:
            session = session.tell(notice.text + not_asked, "error")
        session = replace(session, phase=IDLE, todo=(), live_text="", waiting=None)
        return session if self.waiting is None else session.choose(*self.waiting)

    def _busy(self) -> Session:
        return self.tell("Still at work: wait for the end, or press Stop first.", "busy")

    def _begin_conversations(self, pictures: tuple[Any, ...]) -> Session:
        keys = range(self.next_key, self.next_key + len(pictures))
        conversations = tuple(map(Conversation, keys, pictures))
        session = replace(self, conversations=conversations, next_key=keys.stop, notice=None)
        return replace(session, draft=self.draft or self.first_question)

    def _begin_answers(self, questions: list[Entry]) -> Session:
        todo = tuple(questions)
        job = Job(questions=todo)
        return replace(self, phase=ANSWERING, job=job, todo=todo, live_text="", notice=None)

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
                replaces = entry.how != "ask" and not entry.failed
                kept = each.answered[:-1] if replaces else each.answered
                conversations[at] = replace(each, entries=(*kept, entry))
        session = replace(self, history=history, conversations=tuple(conversations))
        return replace(session, todo=self.todo[1:], live_text="")


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
    kept = {name: getattr(last, name) for name in ("prompt", "number", "text", "answer")}
    return _about(conversation, question, how="more", **kept)
