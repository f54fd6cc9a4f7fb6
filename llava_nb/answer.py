"""What comes back from a model: the text, and what it took.

Covered: the `Answer` and how it is shown. Not covered: making one (`llava.py`).
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from .sizes import format_gib

FINISHES = {"eos": "", "limit": "stopped at the limit", "stopped": "stopped"}


@dataclass(frozen=True)
class Answer:
    """An answer and its figures.

    `tokens` are the new tokens, the end mark included. `seconds` run from the call to
    the last token, `first_token_seconds` to the first. `peak_vram_bytes` is the most
    that torch had allocated on the GPU meanwhile, None without one. `finish` is "eos"
    (the model was done), "limit" (max_new_tokens reached) or "stopped" (by `stop`).
    """

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    peak_vram_bytes: int | None
    finish: str

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
        if FINISHES[self.finish]:
            parts.append(FINISHES[self.finish])
        return ", ".join(parts)

    def __str__(self) -> str:
        return f"{self.text}\n({self.summary})"

    def _repr_html_(self) -> str:
        text = html.escape(self.text).replace("\n", "<br>")
        return f"<div>{text}</div><div style='opacity: 0.6'><small>{self.summary}</small></div>"
