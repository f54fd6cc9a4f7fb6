"""What can happen to the panel, and what it then has to do.

All are frozen data. Not covered: what follows from what (`state.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..inference.answer import Answer
from .data import Task

# --- what can happen ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """A question to every picture on the desk; None is the one in the box."""

    settings: dict[str, Any]
    at: str = ""
    model: str = ""
    question: str | None = None


@dataclass(frozen=True)
class Again(Ask):
    """The last question again, in place of its answer."""


@dataclass(frozen=True)
class More(Ask):
    """Go on with the answers that were cut short."""


@dataclass(frozen=True)
class Choose:
    """Pictures to open and put on the desk; `then_ask` follows at once."""

    sources: tuple[Any, ...]
    what: str = "the picture"
    then_ask: Ask | None = None


@dataclass(frozen=True)
class Opened:
    """The worker opened pictures, or says why not."""

    job: int
    pictures: tuple[Any, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reframe:
    """Show the model the middle square of the pictures, or all of them."""

    crop: bool


@dataclass(frozen=True)
class Clear:
    """Begin new conversations about the same pictures."""


@dataclass(frozen=True)
class Typed:
    """The question box holds another text."""

    text: str


@dataclass(frozen=True)
class Stop:
    """Enough."""


@dataclass(frozen=True)
class Piece:
    """The new text of the answer under way, all of it so far."""

    job: int
    text: str


@dataclass(frozen=True)
class Answered:
    """The answer under way is complete."""

    job: int
    answer: Answer


@dataclass(frozen=True)
class Failed:
    """The answer under way came to nothing; `message` is the repair."""

    job: int
    message: str


@dataclass(frozen=True)
class Ended:
    """The worker has done with a job."""

    job: int


@dataclass(frozen=True)
class Tell:
    """Something to say that changes nothing."""

    text: str
    kind: str = "info"


@dataclass(frozen=True)
class Displayed:
    """The panel is shown, for the first time or once more."""


# --- what is to be done ------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenPictures:
    """Open these and report `Opened`."""

    job: int
    sources: tuple[Any, ...]


@dataclass(frozen=True)
class Begin:
    """Do these one after the other, each to `Answered` or `Failed`, then report `Ended`."""

    job: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Halt:
    """End the answer under way, and begin no other."""
