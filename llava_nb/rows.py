"""Several answers that are made at once, one a row: their tokens, their clocks, their ends.

`Rows` is what `generate` calls a streamer, for a batch. Not covered: one answer, and its
text in pieces (`generation.py`); which pictures go together (`batch.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from .answer import Answer
from .errors import PromptError
from .settings import Settings


class Rows(BaseStreamer):
    """The tokens of several answers as they come, a column a step.

    `lengths` are those of the prompts in tokens, without what fills up the shorter ones:
    that takes no place in what the model holds, `context`, so each row has the room that it
    would have alone. `limit` is the most tokens that any of them may have, 0 if none has room.
    """

    def __init__(
        self, lengths: Sequence[int], settings: Settings, context: int, started: float
    ) -> None:
        self._lengths, self._context, self._started = lengths, context, started
        room = [max(context - length, 0) for length in lengths]
        self._limits = [min(settings.max_new_tokens, each) for each in room]
        self.limit = max(self._limits)
        self.arguments = {**settings.arguments, "max_new_tokens": self.limit}
        self._columns: list[list[int]] = []
        self._times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Take the next token of every row; `generate` hands over the prompts first, in 2 axes."""
        if value.dim() > 1:
            return
        self._columns.append(value.flatten().tolist())
        self._times.append(time.perf_counter() - self._started)

    def end(self) -> None:
        """Called by `generate` when there are no more tokens."""

    def answers(
        self, tokenizer: Any, peak_vram_bytes: int | None, end_ids: int | list[int] | None
    ) -> list[Answer]:
        """Sum up once generation is over, a row at a time."""
        ends = end_ids if isinstance(end_ids, list) else [end_ids]
        return [
            self._answer(row, tokenizer, peak_vram_bytes, ends) for row in range(len(self._lengths))
        ]

    def _answer(self, row: int, tokenizer: Any, peak: int | None, ends: Sequence[Any]) -> Answer:
        length, limit = self._lengths[row], self._limits[row]
        if limit < 1:
            error = PromptError(
                f"The prompt has {length} tokens with its picture, and the model holds "
                f"{self._context}. Shorten it by {length - self._context + 1} tokens or more."
            )
            return Answer("", 0, 0.0, 0.0, None, "failed", prompt_tokens=length, error=error)
        ids = self._ids(row, ends)
        finish = "limit" if len(ids) >= limit else "stopped"
        return Answer(
            text=tokenizer.decode(ids, skip_special_tokens=True).strip(),
            tokens=len(ids),
            seconds=self._times[len(ids) - 1] if ids else 0.0,
            first_token_seconds=self._times[0] if ids else 0.0,
            peak_vram_bytes=peak,
            finish="eos" if ids and ids[-1] in ends else finish,
            prompt_tokens=length,
            ids=tuple(ids),
        )

    def _ids(self, row: int, ends: Sequence[Any]) -> list[int]:
        """The row's own tokens, its end included; what fills it up after that is left out."""
        ids: list[int] = []
        for column in self._columns[: self._limits[row]]:
            ids.append(column[row])
            if ids[-1] in ends:
                break
        return ids
