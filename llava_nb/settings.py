"""How an answer's words are chosen, and when it is told to stop.

Covered: the settings, checked, as arguments of `generate`; a person's stop as a criterion of
`generate`. Not covered: the answer itself (`generation.py`).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import StoppingCriteria

from .errors import PromptError, plain

# Below this the likeliest word is certain; and divided by much less, float32 numbers overflow.
GREEDY_BELOW = 0.001


@dataclass(frozen=True)
class Settings:
    """How to choose words, and what ends the answer early; checked.

    Numbers may come as numpy's or as text. `temperature` None is 0, as `generate` is asked for
    greedy answers; `top_p` 1 leaves no word out, as None does. Raises PromptError for values
    that mean nothing.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        most = whole_number(self.max_new_tokens)
        if most is None:
            raise PromptError(
                f"max_new_tokens is {shown(self.max_new_tokens)}; it is the most tokens that the "
                "answer may have: a whole number from 1 on, such as 256."
            )
        temperature = 0.0 if self.temperature is None else number(self.temperature)
        if temperature is None or not 0 <= temperature <= 5:
            raise PromptError(
                f"temperature is {shown(self.temperature)}; take 0 for the same answer every "
                "time, or up to about 1 for variety."
            )
        top_p = 1.0 if self.top_p is None else number(self.top_p)
        if top_p is None or not 0 < top_p <= 1:
            raise PromptError(
                f"top_p is {shown(self.top_p)}; take a share above 0 and up to 1, or None."
            )
        # The checked numbers take the place of what was given; the class is frozen for others.
        object.__setattr__(self, "max_new_tokens", most)
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "top_p", None if top_p == 1 else top_p)
        if self.top_p is not None and self.greedy:
            raise PromptError(
                "top_p only matters when words are drawn at random: give a temperature as well, "
                "such as temperature=0.7."
            )

        if self.stop is not None and not _can_stop(self.stop):
            raise PromptError(
                f"stop is {shown(self.stop)}; it is what can say that it is enough, by is_set(): "
                "a threading.Event(), or None."
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest word is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `generate`."""
        if self.greedy:
            return {"do_sample": False}
        # top_k is set aside: its default of 50 would act unseen beside top_p.
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p if self.top_p is not None else 1.0,
            "top_k": 0,
        }


def number(value: Any) -> float | None:
    """Return a number however it came (numpy's, a tensor of one, text), None for what is none."""
    if "bool" in type(value).__name__:  # Python's and numpy's
        return None
    try:
        return float(value)
    except Exception:  # each kind of object refuses in its own way
        return None


def whole_number(value: Any, lowest: int = 1) -> int | None:
    """Return a whole number from `lowest` on, as which 256.0 and "256" count; else None."""
    found = number(value)
    if found is None or not math.isfinite(found) or found != int(found) or found < lowest:
        return None
    return int(found)


def check_batch_size(value: Any) -> int:
    """Return how many are asked at once. Raises PromptError."""
    size = whole_number(value)
    if size is None:
        raise PromptError(f"batch_size is {shown(value)}; it is a whole number from 1 on, as 8.")
    return size


def shown(value: Any) -> str:
    """What was given, for a message; short and in one line whatever it is."""
    try:
        return plain(repr(value))
    except Exception:
        return f"a value of type {type(value).__name__}"


def _can_stop(value: Any) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "is_set", None))


class Stop(Protocol):
    """Whatever can say that it is enough, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return True once the answer should end."""


class StopWhen(StoppingCriteria):
    """Ends every row of the batch once `stop.is_set()`."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return one truth value a row, as generate expects."""
        rows = input_ids.shape[0]
        return torch.full((rows,), self._stop.is_set(), device=input_ids.device, dtype=torch.bool)


class EitherStop(threading.Event):
    """Set when the reader has gone, or when the caller's own stop is set."""

    def __init__(self, other: Stop | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """Return True once either says so."""
        return super().is_set() or (self._other is not None and self._other.is_set())
