"""One answer while it is being made: its settings, its tokens, its clock.

`AnswerStream` is what `generate` calls a streamer: it is handed each token as soon as
there is one. It keeps the ids, notes when the first came, and lets another thread read
the text so far. Not covered: calling the model (`llava.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from .answer import Answer
from .errors import PromptError

_END = object()


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


class AnswerStream(BaseStreamer):
    """The inputs, the settings, and the tokens of one answer."""

    def __init__(
        self, inputs: Any, tokenizer: Any, settings: Settings, context: int, started: float
    ) -> None:
        self.inputs, self._tokenizer = inputs, tokenizer
        prompt_tokens = inputs["input_ids"].shape[1]
        room = context - prompt_tokens
        if room < 1:
            raise PromptError(
                f"The prompt has {prompt_tokens} tokens with its picture, and the model holds "
                f"{context}. Shorten it by {1 - room} tokens or more."
            )
        self.limit = min(settings.max_new_tokens, room)
        self.arguments = {**settings.arguments, "max_new_tokens": self.limit}
        self._started, self._first, self._last = started, None, started
        self._ids: list[int] = []
        self._awaiting_prompt = True
        self._queue: queue.SimpleQueue | None = None
        self._sent = ""

    def put(self, value: torch.Tensor) -> None:
        """Take the next token; `generate` hands over the prompt first."""
        if self._awaiting_prompt:
            self._awaiting_prompt = False
            return
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last
        self._ids += value.flatten().tolist()
        if self._queue is not None:
            self._send(self._ready_text())

    def end(self) -> None:
        """Called by `generate` when there are no more tokens."""
        if self._queue is not None:
            self._send(self.text)

    @property
    def text(self) -> str:
        """The answer so far, decoded as a whole, without special tokens."""
        return self._tokenizer.decode(self._ids, skip_special_tokens=True).strip()

    def _ready_text(self) -> str:
        """Return what later tokens can no longer change.

        A character of several bytes may still be incomplete, and white space at the
        end is dropped if the answer ends there.
        """
        return self.text.rstrip("\ufffd").rstrip()

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._queue.put(text[len(self._sent) :])
            self._sent = text

    def work(self, run: Callable[[], Any]) -> None:
        """Run the generation in this thread; its end and its faults reach `pieces`."""
        fault = None
        try:
            run()
        except BaseException as error:  # whatever it is, the reader must hear of it
            fault = error
        self._queue.put((_END, fault))

    def pieces(self) -> Iterator[str]:
        """Yield pieces of text until the end; raise what was raised in `work`."""
        while True:
            item = self._queue.get()
            if isinstance(item, str):
                yield item
                continue
            if item[1] is not None:
                raise item[1]
            return

    def listen(self) -> None:
        """Keep pieces for another thread to read."""
        self._queue = queue.SimpleQueue()

    def answer(self, peak_vram_bytes: int | None, end_ids: int | list[int] | None) -> Answer:
        """Sum up once generation is over."""
        ends = end_ids if isinstance(end_ids, list) else [end_ids]
        if self._ids and self._ids[-1] in ends:
            finish = "eos"
        else:
            finish = "limit" if len(self._ids) >= self.limit else "stopped"
        return Answer(
            text=self.text,
            tokens=len(self._ids),
            seconds=self._last - self._started,
            first_token_seconds=(self._first or self._last) - self._started,
            peak_vram_bytes=peak_vram_bytes,
            finish=finish,
        )
