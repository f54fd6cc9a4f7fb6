"""How an answer's words are chosen, and when it is told to stop.

Covered: the settings, checked, as arguments of `generate`; a person's stop as a criterion of
`generate`. Not covered: the answer itself (`generation.py`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import StoppingCriteria

from .errors import PromptError


@dataclass(frozen=True)
class Settings:
    """How to choose words, checked. Raises PromptError for values that mean nothing."""

    max_new_tokens: int
    temperature: float
    top_p: float | None

    def __post_init__(self) -> None:
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise PromptError(
                f"max_new_tokens is {self.max_new_tokens!r}; it is the most tokens that the "
                "answer may have: a whole number from 1 on, such as 256."
            )
        if not 0 <= self.temperature <= 5:
            raise PromptError(
                f"temperature is {self.temperature!r}; take 0 for the same answer every time, "
                "or up to about 1 for variety."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise PromptError(
                f"top_p is {self.top_p!r}; take a share above 0 and up to 1, or None."
            )
        if self.top_p is not None and self.temperature == 0:
            raise PromptError(
                "top_p only matters when words are drawn at random: give a temperature as well, "
                "such as temperature=0.7."
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `generate`."""
        if self.temperature == 0:
            return {"do_sample": False}
        # top_k is set aside: its default of 50 would act unseen beside top_p.
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p if self.top_p is not None else 1.0,
            "top_k": 0,
        }


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
