"""What comes back from a model: the text, and what it took.

Covered: the `Answer` and how it is shown. Not covered: making one (`llava.py`).
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from .errors import LlavaNbError
from .sizes import format_gib

FINISHES = {"eos": "", "limit": "stopped at the limit", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class Answer:
    """An answer and its figures.

    `tokens` are the new tokens, the end mark included. `seconds` run from the call to
    the last token, `first_token_seconds` to the first. `peak_vram_bytes` is the most
    that torch had allocated on the GPU meanwhile, None without one. `finish` is "eos"
    (the model was done), "limit" (max_new_tokens reached) or "stopped" (by `stop`).

    `prompt_tokens` were given, pictures included; the model had read `reused_tokens` of them
    before. `ids` are the new tokens themselves. Among many answers one may be "failed": it
    has no text, and its `error` says what to do.
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
