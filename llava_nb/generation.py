"""One answer while it is being made: its tokens, its text so far, its clock.

`AnswerStream` is what `generate` calls a streamer: it is handed each token as soon as
there is one. It keeps the ids, notes when the first came, and lets another thread read
the text so far. Not covered: calling the model (`running.py`), its settings (`settings.py`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from .answer import Answer
from .errors import PromptError
from .settings import Settings

_END = object()


class AnswerStream(BaseStreamer):
    """The request, the settings, and the tokens of one answer.

    `reused` is how many tokens of the prompt the model had read before. `said` are the tokens
    of an answer that is gone on with; the request ends with them.
    """

    def __init__(
        self,
        request: Any,
        tokenizer: Any,
        settings: Settings,
        context: int,
        started: float,
        said: Sequence[int] = (),
    ) -> None:
        self.request, self._tokenizer = request, tokenizer
        self.reused = 0
        self.prompt_tokens = prompt_tokens = request.ids.shape[1]
        room = context - prompt_tokens
        if room < 1:
            raise PromptError(
                f"The prompt has {prompt_tokens} tokens with its picture, and the model holds "
                f"{context}. Shorten it by {1 - room} tokens or more."
            )
        self.limit = min(settings.max_new_tokens, room)
        self.arguments = {**settings.arguments, "max_new_tokens": self.limit}
        self._started, self._first, self._last = started, None, started
        self.ids: list[int] = list(said)
        self._said = len(said)
        self._queue: queue.SimpleQueue | None = None
        self._sent = self._ready_text() if said else ""

    def put(self, value: torch.Tensor) -> None:
        """Take the next token; `generate` hands over the prompt first, as (1, tokens)."""
        if value.dim() > 1:
            return
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last
        self.ids += value.tolist()
        if self._queue is not None:
            self._send(self._ready_text())

    def end(self) -> None:
        """Called by `generate` when there are no more tokens."""
        if self._queue is not None:
            self._send(self.text)

    @property
    def new_ids(self) -> list[int]:
        """The tokens made here, without those said before."""
        return self.ids[self._said :]

    @property
    def text(self) -> str:
        """The answer so far, decoded as a whole, without special tokens."""
        return self._tokenizer.decode(self.ids, skip_special_tokens=True).strip()

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
        if self.ids and self.ids[-1] in ends:
            finish = "eos"
        else:
            finish = "limit" if len(self.new_ids) >= self.limit else "stopped"
        return Answer(
            text=self.text,
            tokens=len(self.ids),
            seconds=self._last - self._started,
            first_token_seconds=(self._first or self._last) - self._started,
            peak_vram_bytes=peak_vram_bytes,
            finish=finish,
            prompt_tokens=self.prompt_tokens - self._said,
            reused_tokens=self.reused,
            ids=tuple(self.ids),
        )
