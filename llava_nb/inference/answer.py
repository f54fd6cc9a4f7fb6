"""What is asked for and what comes back: the settings of an answer, its growth, and the `Answer`.

Every default and every limit of a setting stands here and nowhere else.
"""

from __future__ import annotations

import html
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LlavaNbError, PromptError, plain
from ..sizes import format_gib

if TYPE_CHECKING:
    import torch

MAX_NEW_TOKENS = 256
# Below this the likeliest word is certain; divided by much less, float32 numbers overflow.
GREEDY_BELOW = 0.001
_END = object()
FINISHES = {"eos": "", "limit": "stopped at the limit", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class Answer:
    """An answer and its figures.

    `tokens` are the new tokens, the end mark included. `seconds` run from the call to
    the last token, `first_token_seconds` to the first. `peak_vram_bytes` is the most
    that torch had allocated on the GPU meanwhile, None without one. `finish` is "eos"
    (the model was done), "limit" (max_new_tokens reached), "stopped" (by `stop`) or, among many
    answers, "failed": then there is no text, and `error` says what to do.

    `prompt_tokens` were given, pictures included; the model had read `reused_tokens` of them
    before. `ids` are the new tokens themselves.
    """

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    peak_vram_bytes: int | None
    finish: str
    prompt_tokens: int = 0
    reused_tokens: int = 0
    ids: tuple[int, ...] = field(default=(), repr=False)
    error: LlavaNbError | None = None

    @classmethod
    def failed(cls, error: LlavaNbError, *, seconds: float = 0.0, prompt_tokens: int = 0) -> Answer:
        """Return the answer to a question that could not be asked."""
        return cls(
            "", 0, seconds, seconds, None, "failed", prompt_tokens=prompt_tokens, error=error
        )

    @classmethod
    def stopped(cls) -> Answer:
        """Return the answer to a question that was not begun with any more."""
        return cls("", 0, 0.0, 0.0, None, "stopped")

    @property
    def tokens_per_second(self) -> float:
        """New tokens by the seconds they took, picture and prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def summary(self) -> str:
        """The figures in one line."""
        parts = [
            f"{self.tokens} tokens in {self.seconds:.1f} s",
            f"{self.tokens_per_second:.1f} tokens/s",
            f"first after {self.first_token_seconds:.1f} s",
        ]
        if self.peak_vram_bytes is not None:
            parts.append(f"peak {format_gib(self.peak_vram_bytes)} of VRAM")
        if self.reused_tokens:
            parts.append(f"{self.reused_tokens} of {self.prompt_tokens} prompt tokens read before")
        if FINISHES[self.finish]:
            parts.append(FINISHES[self.finish])
        return ", ".join(parts) if self.error is None else f"failed: {self.error}"

    def __str__(self) -> str:
        return f"{self.text}\n({self.summary})"

    def _repr_html_(self) -> str:
        text = html.escape(self.text).replace("\n", "<br>")
        figures = html.escape(self.summary)
        return f"<div>{text}</div><div style='opacity: 0.6'><small>{figures}</small></div>"


class Stop(Protocol):
    """Whatever can say that it is enough, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return True once the answer should end."""


@dataclass(frozen=True)
class Settings:
    """How words are chosen and what ends an answer early; checked.

    Numbers may come as numpy's or as text. `temperature` None is 0, as transformers' examples
    have it; `top_p` 1 leaves no word out, as None does. Raises PromptError for what means nothing.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        most = whole_number(self.max_new_tokens)
        if most is None:
            raise PromptError(
                f"max_new_tokens is {shown(self.max_new_tokens)}; it is the most tokens that the "
                f"answer may have: a whole number from 1 on, such as {MAX_NEW_TOKENS}."
            )
        temperature = 0.0 if self.temperature is None else _number(self.temperature)
        if temperature is None or not 0 <= temperature <= 5:
            raise PromptError(
                f"temperature is {shown(self.temperature)}; take 0 for the same answer every "
                "time, or up to about 1 for variety."
            )
        top_p = 1.0 if self.top_p is None else _number(self.top_p)
        if top_p is None or not 0 < top_p <= 1:
            raise PromptError(
                f"top_p is {shown(self.top_p)}; take a share above 0 and up to 1, or None."
            )
        if top_p < 1 and temperature < GREEDY_BELOW:
            raise PromptError(
                "top_p only matters when words are drawn at random: give a temperature as well, "
                "such as temperature=0.7."
            )
        is_event = callable(getattr(self.stop, "is_set", None)) and not isinstance(self.stop, type)
        if self.stop is not None and not is_event:
            raise PromptError(
                f"stop is {shown(self.stop)}; it is what can say that it is enough, by is_set(): "
                "a threading.Event(), or None."
            )
        # The checked numbers take the place of what was given; for others this stays frozen.
        object.__setattr__(self, "max_new_tokens", most)
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "top_p", None if top_p == 1 else top_p)

    @property
    def arguments(self) -> dict[str, Any]:
        """How to choose words, as arguments of `generate`."""
        if self.temperature < GREEDY_BELOW:
            return {"do_sample": False}
        # top_k is set aside: its default of 50 would act unseen beside top_p.
        top_p = self.top_p if self.top_p is not None else 1.0
        return {"do_sample": True, "temperature": self.temperature, "top_p": top_p, "top_k": 0}


def no_room(tokens: int, context: int, what: str = "The prompt", repair: str = "") -> PromptError:
    """Return the error of a prompt that leaves no room for an answer."""
    repair = repair or f"Shorten it by {tokens - context + 1} tokens or more."
    return PromptError(
        f"{what} has {tokens} tokens, picture included, and the model holds {context}, the answer "
        f"included. {repair}"
    )


class AnswerStream:
    """Answers while they are made, one a row: their tokens, clocks and ends, and the text so far.

    It is what `generate` calls a streamer. `lengths` are the prompts' in tokens, without what
    fills up the shorter ones: that takes no place in what the model holds, `context`, so each row
    has the room that it would have alone, `limits`. `limit` is the longest of them. `request` is
    the engine's, for a single answer.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        tokenizer: Any,
        settings: Settings,
        context: int,
        started: float,
        request: Any = None,
    ) -> None:
        self.lengths, self.request, self.stop = list(lengths), request, settings.stop
        self.limits = [min(settings.max_new_tokens, max(context - each, 0)) for each in lengths]
        self.limit = max(self.limits)
        self.arguments = {**settings.arguments, "max_new_tokens": self.limit}
        self.reused = 0  # tokens of the prompt that the model had read before
        self._tokenizer, self._started = tokenizer, started
        self._begun = request.begun if request else ()
        self._columns: list[list[int]] = []
        self._times: list[float] = []
        self._queue: queue.SimpleQueue | None = None
        self._sent = ""

    def put(self, value: torch.Tensor) -> None:
        """Take the next token of every row; `generate` hands over the prompts first, in 2 axes."""
        if value.dim() > 1:
            return
        self._columns.append(value.tolist())
        self._times.append(time.perf_counter() - self._started)
        if self._queue is not None:
            # A character of several bytes may still be incomplete, and white space at the end is
            # dropped if the answer ends there: only what later tokens cannot change is sent.
            self._send(self._text(self._ids()).rstrip("\ufffd").rstrip())

    def end(self) -> None:
        """Called by `generate` when there are no more tokens."""
        if self._queue is not None:
            self._send(self._text(self._ids()))

    def new_ids(self, row: int = 0, ends: Sequence[int] = ()) -> list[int]:
        """Return a row's own tokens, its end included; what fills it up after that is left out."""
        ids: list[int] = []
        for column in self._columns[: self.limits[row]]:
            ids.append(column[row])
            if ids[-1] in ends:
                break
        return ids

    def answers(self, ends: Sequence[int], peak_vram_bytes: int | None) -> list[Answer]:
        """Sum up once generation is over, a row at a time."""
        return [self._answer(row, ends, peak_vram_bytes) for row in range(len(self.lengths))]

    def _answer(self, row: int, ends: Sequence[int], peak: int | None) -> Answer:
        new = self.new_ids(row, ends)
        ids = [*self._begun, *new]
        finish = "limit" if len(new) >= self.limits[row] else "stopped"
        return Answer(
            text=self._text(ids),
            tokens=len(ids),
            seconds=self._times[len(new) - 1] if new else 0.0,
            first_token_seconds=self._times[0] if new else 0.0,
            peak_vram_bytes=peak,
            finish="eos" if ids and ids[-1] in ends else finish,
            prompt_tokens=self.lengths[row] - len(self._begun),
            reused_tokens=self.reused,
            ids=tuple(ids),
        )

    def _ids(self) -> list[int]:
        """All of a single answer so far."""
        return [*self._begun, *(column[0] for column in self._columns)]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._queue.put(text[len(self._sent) :])
            self._sent = text

    def listen(self) -> threading.Event:
        """Keep pieces of text for another thread; return what to set when nobody reads them."""
        self._queue = queue.SimpleQueue()
        if self._begun:
            self._sent = self._text(list(self._begun)).rstrip("\ufffd").rstrip()
        self.stop = left = _Left(self.stop)
        return left

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
        while isinstance(item := self._queue.get(), str):
            yield item
        if item[1] is not None:
            raise item[1]


class _Left(threading.Event):
    """Set when the reader has gone, or when the caller's own stop is set."""

    def __init__(self, other: Stop | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


def check_batch_size(value: Any) -> int:
    """Return how many are asked at once. Raises PromptError."""
    size = whole_number(value)
    if size is None:
        raise PromptError(f"batch_size is {shown(value)}; it is a whole number from 1 on, as 8.")
    return size


def whole_number(value: Any, lowest: int = 1) -> int | None:
    """Return a whole number from `lowest` on, as which 256.0 and "256" count; else None."""
    found = _number(value)
    if found is None or not math.isfinite(found) or found != int(found) or found < lowest:
        return None
    return int(found)


def _number(value: Any) -> float | None:
    """Return a number however it came (numpy's, a tensor of one, text), None for what is none."""
    if "bool" in type(value).__name__:  # Python's and numpy's
        return None
    try:
        return float(value)
    except Exception:  # each kind of object refuses in its own way
        return None


def shown(value: Any) -> str:
    """Return what was given for a message, in one short line whatever it is."""
    try:
        return plain(repr(value))
    except Exception:
        return f"a value of type {type(value).__name__}"
