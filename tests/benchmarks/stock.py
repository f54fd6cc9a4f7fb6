"""What llava_nb is compared with: transformers' processor and `generate`, one picture at a time.

Also what both sides are given: pictures that no model has seen, and answers of one length. Not
covered: the clock (`in_turn.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

from PIL import Image

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb.llava import Llava


def fresh_picture(number: int, side: int = 336) -> Image.Image:
    """Return a drawn scene; another number, another scene."""
    return draw(sample_scene(Random(f"benchmark {number}"), count=2), side)


def generate(llava: Llava, picture: Image.Image, text: str, tokens: int) -> tuple[list[int], int]:
    """Return the ids of the greedy answer to a prompt, and the number of tokens in the prompt.

    The much-copied recipe: `processor`, then `model.generate`, with the tensors sent where the
    model is, in its number format.
    """
    inputs = llava.processor(images=picture, text=text, return_tensors="pt")
    inputs = inputs.to(llava.device, llava.model.dtype)
    given = inputs["input_ids"].shape[1]
    made = llava.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return made[0, given:].tolist(), given


def text_of(llava: Llava, ids: list[int]) -> str:
    """Return the answer as text."""
    return llava.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@contextlib.contextmanager
def exactly(llava: Llava, tokens: int) -> Iterator[None]:
    """Forbid the end token until an answer has `tokens` tokens, whoever asks for it."""
    config: Any = llava.model.generation_config
    before = config.min_new_tokens
    config.min_new_tokens = tokens
    try:
        yield
    finally:
        config.min_new_tokens = before
