"""The panel's data: its state, the pictures on the desk, the rows of its record.

All are frozen. A picture is anything with `name`, `thumbnail` (bytes) and `framed(crop)`;
`pictures.PanelPicture` is one. Not covered: what can happen (`events.py`), what
follows from it (`state.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..inference.answer import Answer

if TYPE_CHECKING:
    from .events import Ask, Choose

IDLE, OPENING, ANSWERING, STOPPING = "idle", "opening", "answering", "stopping"
DEFAULT_QUESTION = "Describe this picture."


@dataclass(frozen=True)
class Entry:
    """One question about one picture and what came of it: a row of the record.

    `number` counts from 1 in the record; 0 is not there yet. `key` is the conversation. `how`
    is "ask", "again" (in place of the last answer) or "more" (the last answer gone on with).
    `finish` is that of `Answer`, or "failed" with the `error` to show; `answer` has the figures,
    None where there are none. `settings` are max_new_tokens, temperature, top_p and crop.
    """

    key: int = field(repr=False)
    picture: str
    prompt: str
    settings: dict[str, Any] = field(repr=False)
    asked_at: str = field(repr=False)
    model: str = field(default="", repr=False)
    how: str = field(default="ask", repr=False)
    number: int = 0
    text: str = ""
    finish: str = ""
    error: str = ""
    answer: Answer | None = field(default=None, repr=False)
    thumbnail: bytes = field(default=b"", repr=False)

    @property
    def failed(self) -> bool:
        """Whether something went wrong; the model was then not told of it."""
        return self.finish == "failed"

    @property
    def unfinished(self) -> bool:
        """Whether the answer can be gone on with."""
        return self.finish in ("limit", "stopped")


@dataclass(frozen=True)
class Subject:
    """A picture on the desk, with the key of the conversation about it."""

    key: int
    picture: Any


@dataclass(frozen=True)
class Task:
    """A question to be answered; `entry` is its row as far as it is known."""

    subject: Subject
    entry: Entry


@dataclass(frozen=True)
class Notice:
    """A line for the person; `kind` is "info", "busy" or "error"."""

    kind: str
    text: str


@dataclass(frozen=True)
class PanelState:
    """Everything that the panel shows follows from this.

    `talk` are the conversations as shown, `history` the record. `job` numbers what the worker
    was given; `todo` is what is left of it, the first with `live_text` so far. `waiting` is a
    choice made meanwhile. `opening` is the question that last began a conversation, `draft` the
    text in the box. With `crop` the model is shown the middle square.
    """

    phase: str = IDLE
    subjects: tuple[Subject, ...] = ()
    talk: tuple[Entry, ...] = ()
    history: tuple[Entry, ...] = ()
    todo: tuple[Task, ...] = ()
    live_text: str = ""
    draft: str = DEFAULT_QUESTION
    opening: str = DEFAULT_QUESTION
    notice: Notice | None = None
    crop: bool = False
    waiting: Choose | None = None
    then_ask: Ask | None = None
    job: int = 0
    next_key: int = 1

    def entries(self, key: int) -> list[Entry]:
        """What is shown of one conversation, oldest first."""
        return [entry for entry in self.talk if entry.key == key]

    def told(self, key: int) -> list[Entry]:
        """What the model knows of one conversation: without what failed."""
        return [entry for entry in self.entries(key) if not entry.failed]

    @property
    def can(self) -> frozenset[str]:
        """What there is to press now; the rest is disabled."""
        idle = self.phase == IDLE
        last = [told[-1] for subject in self.subjects if (told := self.told(subject.key))]
        possible = {
            "choose": idle or self.phase == OPENING,
            "stop": self.phase in (OPENING, ANSWERING),
            "ask": idle and bool(self.subjects),
            "more": idle and any(entry.unfinished for entry in last),
            "again": idle and bool(self.talk),
            "clear": idle and bool(self.talk),
            "reframe": idle,
            "save": bool(self.history),
        }
        return frozenset(name for name, possible_now in possible.items() if possible_now)
