"""From a picture and a question to what the model is given.

Covered: the text of the prompt as this model wants it, the checks that come before
anything runs, ids and pixels, the latter in the model's number format, all still in RAM.
A picture that the model remembers is not made into pixels again unless it has to be.
Not covered: reading pictures (`images.py`), conversations as text (`prompts.py`), tokenizer
and pixels (`processing.py`), what is remembered (`prefix_cache.py`), generating (`llava.py`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from .generation import AnswerStream
from .images import open_image
from .processor import encode, encode_text
from .processor import prompt_text as conversation_text
from .prompts import check_question
from .settings import Settings

if TYPE_CHECKING:
    from .llava import Llava

STRIP_PIXELS = 2**22
Turns = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Picture:
    """An opened picture, and a fingerprint by which it is known again."""

    image: Image.Image
    fingerprint: bytes = field(init=False)

    def __post_init__(self) -> None:
        # The quickest where the processor has instructions for it, as all of today's have. In
        # strips: `tobytes` holds what it returns twice, 0.6 GiB for the largest picture.
        pixels, (width, height) = hashlib.sha256(), self.image.size
        rows = max(STRIP_PIXELS // max(width, 1), 1)
        for top in range(0, height, rows):
            strip = self.image.crop((0, top, width, min(top + rows, height)))
            pixels.update(strip.tobytes())
        pixels.update(repr(self.image.size).encode())
        object.__setattr__(self, "fingerprint", pixels.digest())

    @classmethod
    def of(cls, source: Any) -> Picture | None:
        """Open whatever `open_image` takes; None stays None. Raises ImageError."""
        if source is None or isinstance(source, cls):
            return source
        return cls(open_image(source))


@dataclass(frozen=True)
class Request:
    """One prompt, ready for the model.

    `ids` is (1, tokens), on the CPU. Its picture's last token stands before `picture_end`;
    both are without meaning if `picture`, the fingerprint, is None. `see` gives what
    the vision tower is given, by name. `whole`: whether the answer is remembered as well.
    """

    ids: torch.Tensor
    picture: bytes | None
    picture_end: int
    see: Callable[[], dict[str, Any]]
    whole: bool = False


def prompt_text(llava: Llava, turns: Turns, images: int) -> str:
    """Return the exact text that the model is given; see `processor.prompt_text`."""
    return conversation_text(
        llava.processor, turns, images, style=llava.style, spelling=llava.spelling
    )


def request_for(
    llava: Llava, picture: Picture | None, turns: Turns, *, whole: bool = False
) -> Request:
    """Turn a picture (or None) and questions with their answers into a request.

    Raises PromptError or, if the model has been closed, ModelError.
    """
    config, dtype = llava._open().config, llava._open().dtype
    pictures = [] if picture is None else [picture.image]
    text = prompt_text(llava, turns, len(pictures))
    processor, spelling = llava.processor, llava.spelling
    if picture is None:
        ids = encode(processor, [], [text], spelling)["input_ids"]
        return Request(ids, None, 0, dict, whole)

    def see() -> dict[str, Any]:
        return pixels_of(encode(processor, pictures, [text], spelling), dtype)

    token = config.image_token_id
    tokens = llava.prefixes.picture_tokens(picture.fingerprint, token)
    if tokens is None:
        inputs = encode(processor, pictures, [text], spelling)
        ids, see = inputs["input_ids"], lambda: pixels_of(inputs, dtype)
    else:
        ids = encode_text(processor, text, tokens, spelling)
    end = int((ids[0] == token).nonzero()[-1]) + 1
    return Request(ids, picture.fingerprint, end, see, whole)


def pixels_of(inputs: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return what of a processor's output the vision tower is given."""
    seen = {name: value for name, value in inputs.items() if name not in _TEXT}
    if "pixel_values" in seen:
        seen["pixel_values"] = seen["pixel_values"].to(dtype)
    return seen


_TEXT = ("input_ids", "attention_mask")


def context_of(model: Any) -> int:
    """Return how many tokens the model holds, of prompt and answer together."""
    return model.config.get_text_config().max_position_embeddings


def prepare(llava: Llava, image: Any, prompt: str, settings: Settings) -> AnswerStream:
    """Turn picture (or None) and question into an answer to be made.

    Raises ImageError, PromptError or, if the model has been closed, ModelError.
    """
    started = time.perf_counter()
    context = context_of(llava._open())
    prompt = check_question(prompt)
    request = request_for(llava, Picture.of(image), [(prompt, None)])
    return AnswerStream(request, llava.processor.tokenizer, settings, context, started)
