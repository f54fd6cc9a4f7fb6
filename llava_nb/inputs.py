"""From a picture and a question to what the model is given.

Covered: the text of the prompt as this model wants it, the checks that come before
anything runs, ids and pixels, the latter in the model's number format, all still in RAM.
Not covered: reading pictures (`images.py`), conversations as text (`prompts.py`), tokenizer
and pixels (`processing.py`), generating (`llava.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import prompts
from .errors import PromptError
from .generation import AnswerStream, Settings
from .images import open_image
from .processing import encode

if TYPE_CHECKING:
    from .llava import Llava


def prompt_text(llava: Llava, prompt: str, images: int) -> str:
    """Return the exact text that the model is given for a question about `images` pictures."""
    picture = llava.spelling.picture if llava.spelling else prompts.IMAGE_TOKEN
    question = prompts.with_image(prompt, images, picture)
    if llava.style is not None:
        return prompts.build([(question, None)], llava.style)
    content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
    message = {"role": "user", "content": content}
    return llava.processor.apply_chat_template([message], add_generation_prompt=True)


def prepare(llava: Llava, image: Any, prompt: str, settings: Settings) -> AnswerStream:
    """Turn picture (or None) and question into an answer to be made.

    Raises ImageError, PromptError or, if the model has been closed, ModelError.
    """
    model, started = llava._open(), time.perf_counter()
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(
            'The prompt is empty. Ask something: ask(image, "Describe this picture.").'
        )
    pictures = [] if image is None else [open_image(image)]
    text = llava.prompt_text(prompt, images=len(pictures))
    prompts.check_images(text, len(pictures))
    inputs = encode(llava.processor, pictures, [text], llava.spelling)
    if pictures:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    context = model.config.get_text_config().max_position_embeddings
    return AnswerStream(inputs, llava.processor.tokenizer, settings, context, started)
