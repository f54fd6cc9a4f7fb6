"""What is asked for and what comes back: the settings of an answer, its growth, and the `Answer`.

Every default and every limit of a setting stands here and nowhere else.
"""

from __future__ import annotations

import functools
import html
import inspect
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import LlavaNbError, PromptError, format_gib, plain

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
MAX_NEW_TOKENS = 256
# Below this the likeliest word is certain; divided by much less, float32 numbers overflow.
GREEDY_BELOW = 0.001
SHOWN_AFTER, SHOWN_EVERY = 2.0, 1.0  # seconds that a picture is read, until and while it is told
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
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    peak_vram_bytes: int | None = None
    finish: str = "stopped"
    prompt_tokens: int = 0
    reused_tokens: int = 0
    ids: tuple[int, ...] = field(default=(), repr=False)
    error: LlavaNbError | None = None

    @classmethod
    def failed(cls, error: LlavaNbError, seconds: float = 0.0, prompt_tokens: int = 0) -> Answer:
        """Return the answer to a question that could not be asked."""
        return cls("", 0, seconds, seconds, None, "failed", prompt_tokens, error=error)

    @property
    def tokens_per_second(self) -> float:
        """New tokens by the seconds they took, picture and prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def summary(self) -> str:
        """The figures in one line."""
        if self.error is not None:
            return f"failed: {self.error}"
        parts = [
            f"{self.tokens} tokens in {self.seconds:.1f} s",
            f"{self.tokens_per_second:.1f} tokens/s",
            f"first after {self.first_token_seconds:.1f} s",
        ]
        if self.peak_vram_bytes is not None:
            parts.append(f"peak {format_gib(self.peak_vram_bytes)} of VRAM")
        if self.reused_tokens:
            parts.append(f"{self.reused_tokens} of {self.prompt_tokens} prompt tokens read before")
        return ", ".join(filter(None, [*parts, FINISHES[self.finish]]))

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


class Settings:
    """How words are chosen and what ends an answer early; checked.

    Numbers may come as numpy's or as text. Raises PromptError for what means nothing.
    """

    def __init__(
        self,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> None:
        limit = whole_number(max_new_tokens)
        if limit is None:
            raise PromptError(
                f"max_new_tokens is {shown(max_new_tokens)}; it is the most tokens that the "
                f"answer may have: a whole number from 1 on, such as {MAX_NEW_TOKENS}."
            )
        temperature_value = 0.0 if temperature is None else _number(temperature)
        if temperature_value is None or not 0 <= temperature_value <= 5:
            raise PromptError(
                f"temperature is {shown(temperature)}; take 0 for the same answer every "
                "time, or up to about 1 for variety."
            )
        top_p_value = 1.0 if top_p is None else _number(top_p)
        if top_p_value is None or not 0 < top_p_value <= 1:
            raise PromptError(
                f"top_p is {shown(top_p)}; take a share above 0 and up to 1, or None."
            )
        is_greedy = temperature_value < GREEDY_BELOW
        if top_p_value < 1 and is_greedy:
            raise PromptError(
                "top_p only matters when words are drawn at random: give a temperature as well, "
                "such as temperature=0.7."
            )
        is_event = callable(getattr(stop, "is_set", None)) and not isinstance(stop, type)
        if stop is not None and not is_event:
            raise PromptError(
                f"stop is {shown(stop)}; it is what can say that it is enough, by is_set(): "
                "a threading.Event(), or None."
            )
        self.max_new_tokens, self.stop = limit, stop
        self.temperature, self.top_p = temperature_value, top_p_value
        self.arguments: dict[str, Any] = {"do_sample": not is_greedy}  # of `generate`
        if not is_greedy:
            # top_k is set aside: its default of 50 would act unseen beside top_p.
            self.arguments |= {"temperature": temperature_value, "top_p": top_p_value, "top_k": 0}


def takes_settings(method: Callable[..., T]) -> Callable[..., T]:
    """Give a method the settings of an answer as keywords; it gets them checked, as `settings`."""
    fields = inspect.signature(Settings).parameters
    own = inspect.signature(method)
    parameters = [each for each in own.parameters.values() if each.name != "settings"]
    parameters += [each.replace(kind=each.KEYWORD_ONLY) for each in fields.values()]

    @functools.wraps(method)
    def with_settings(*arguments: Any, **keywords: Any) -> T:
        given = {name: keywords.pop(name) for name in fields if name in keywords}
        return method(*arguments, settings=Settings(**given), **keywords)

    with_settings.__signature__ = own.replace(parameters=parameters)
    return with_settings


@dataclass(eq=False)
class Generation:
    """One run of `generate`, which calls it a streamer: the answers as they grow, one a row.

    What fills up the shorter prompts of several takes no place in what the model holds, so each row
    has the room that it would have alone, `limits`.
    """

    lengths: Sequence[int]  # of the prompts, in tokens
    tokenizer: Any
    ends: Sequence[int]  # the tokens that end an answer
    context: int  # how many tokens the model holds, of prompt and answer together
    settings: Settings
    started: float  # on the clock of time.perf_counter()

    # Of a single prompt, none of a batch:
    ids: torch.Tensor | None = None  # (1, tokens), on the CPU; `begun` is at their end
    begun: tuple[int, ...] = ()  # tokens of an answer that is gone on with
    picture: bytes | None = None  # its fingerprint
    picture_end: int = 0  # the picture's last token stands before it
    see: Callable[[], dict[str, Any]] | None = None  # gives what the vision tower is given, by name
    whole: bool = False  # whether the answer is remembered too, not the picture alone
    reused: int = 0  # tokens of the prompt that the model had read before

    def __post_init__(self) -> None:
        most = self.settings.max_new_tokens
        self.limits = [min(most, max(self.context - length, 0)) for length in self.lengths]
        self.limit = max(self.limits)
        self.stops = [] if self.settings.stop is None else [self.settings.stop]
        self._columns: list[list[int]] = []
        self._times: list[float] = []
        self._queue: queue.SimpleQueue | None = None
        self._sent = ""

    def no_room(self, row: int = 0, what: str = "The prompt", repair: str = "") -> PromptError:
        """Return the error of a prompt that leaves no room for an answer."""
        tokens = self.lengths[row]
        repair = repair or f"Shorten it by {tokens - self.context + 1} tokens or more."
        return PromptError(
            f"{what} has {tokens} tokens, picture included, and the model holds {self.context}, "
            f"the answer included. {repair}"
        )

    def put(self, value: torch.Tensor) -> None:
        """Take the next token of every row; `generate` hands over the prompts first, in 2 axes."""
        if value.dim() > 1:
            return
        self._columns.append(value.tolist())
        self._times.append(time.perf_counter() - self.started)
        if self._queue is not None:
            self._send(self._certain_text())

    def end(self) -> None:
        """Called by `generate` when there are no more tokens."""
        if self._queue is not None:
            self._send(self._text(self.new_ids()))

    def new_ids(self, row: int = 0) -> list[int]:
        """Return a row's own tokens, its end included; what fills it up after that is left out."""
        ids: list[int] = []
        for column in self._columns[: self.limits[row]]:
            ids.append(column[row])
            if ids[-1] in self.ends:
                break
        return ids

    def answer(self, row: int, peak_vram_bytes: int | None) -> Answer:
        """Sum up a row once generation is over."""
        new = self.new_ids(row)
        ids = (*self.begun, *new)
        finish = "limit" if len(new) >= self.limits[row] else "stopped"
        return Answer(
            text=self._text(new),
            tokens=len(ids),
            seconds=self._times[len(new) - 1] if new else 0.0,
            first_token_seconds=self._times[0] if new else 0.0,
            peak_vram_bytes=peak_vram_bytes,
            finish="eos" if ids and ids[-1] in self.ends else finish,
            prompt_tokens=self.lengths[row] - len(self.begun),
            reused_tokens=self.reused,
            ids=ids,
        )

    def pieces(
        self, run: Callable[[], Any], waiting: Callable[[float | None], None] | None = None
    ) -> Iterator[str]:
        """Yield a single answer's text as it grows; `run`, in a thread, makes it.

        Leaving the loop early ends the generation and waits for it. What goes wrong is raised here.
        `waiting` is called with the seconds so far while a picture is read, and with None before
        what follows.
        """
        waiting = waiting if self.picture is not None else None
        self._queue, left = queue.SimpleQueue(), threading.Event()
        self._sent = self._certain_text()  # of what is gone on with
        self.stops.append(left)

        def work() -> None:
            fault = None
            try:
                run()
            except BaseException as error:  # whatever it is, the reader must hear of it
                fault = error
            self._queue.put(fault)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while True:
                try:
                    item = self._queue.get(timeout=SHOWN_EVERY if waiting else None)
                except queue.Empty:
                    waiting(time.perf_counter() - self.started)
                    continue
                if waiting:
                    waiting = waiting(None)
                if not isinstance(item, str):
                    break
                yield item
            if item is not None:
                raise item
        finally:
            if waiting:
                waiting(None)
            left.set()
            worker.join()

    def _text(self, new: list[int]) -> str:
        return self.tokenizer.decode([*self.begun, *new], skip_special_tokens=True).strip()

    def _certain_text(self) -> str:
        """What later tokens cannot change."""
        # A character of several bytes may be incomplete; white space may be dropped at the end.
        return self._text(self.new_ids()).rstrip("\ufffd").rstrip()

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._queue.put(text[len(self._sent) :])
            self._sent = text


class WaitingLine:
    """Shows that a picture is being read, and for how long: one line, gone at the first word.

    In a notebook it is an output of the cell, elsewhere on stderr, where it is rewritten in place
    on a terminal; a file or a pipe gets a line now and then.
    """

    def __init__(self) -> None:
        self._handle: Any = None  # of the cell's output
        self._written, self._told = 0, 0.0  # letters on the terminal, seconds at the last line

    def __call__(self, seconds: float | None) -> None:
        """Show the seconds; None takes the line away."""
        line = "" if seconds is None else f"reading the picture, {seconds:.0f} s"
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if (seconds or 0) < SHOWN_AFTER and not (self._handle or self._written):
            return
        if hasattr(shell, "kernel"):
            from IPython.display import display

            if self._handle is None:
                self._handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self._handle.update({"text/plain": line}, raw=True)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r{line:<{self._written}}" + ("" if line else "\r"))
            self._written = len(line)
        elif line and seconds > 1.5 * self._told:
            sys.stderr.write(f"{line}\n")
            self._told = seconds
        sys.stderr.flush()


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
