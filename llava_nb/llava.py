"""A loaded LLaVA, and everything that can be asked of it.

Generating, decoding, stopping and releasing memory happen here and nowhere else; the
notebooks, the panel and the command line are callers. Nothing here knows of widgets.

Covered: one picture or none, one question, an answer at once or in pieces. Not
covered: loading (`loading.py`), pictures (`images.py`), the text of prompts
(`prompts.py`).
"""

from __future__ import annotations

import gc
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import prompts
from .answer import Answer
from .errors import ModelError, OutOfVramError, PromptError
from .generation import AnswerStream, EitherStop, Settings, Stop, StopWhen
from .images import open_image
from .processing import encode
from .sizes import format_gib
from .spelling import Spelling

DEFAULT_PROMPT = "Describe this picture."


class Llava:
    """A model with its processor. Made by `load()`.

    `model` and `processor` are the transformers objects; `name`, `reason` (why this
    model), `quantization` and `style` (of the conversation, None for the model's own
    chat template) say what was loaded. `spelling` is how a prompt is written for the
    tokenizer where that takes care (`spelling.py`), else None.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        reason: str = "",
        quantization: str | None = None,
        style: str | None = prompts.DEFAULT_STYLE,
        spelling: Spelling | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.name, self.reason = name, reason
        self.quantization, self.style, self.spelling = quantization, style, spelling
        self._busy = threading.Lock()

    def __repr__(self) -> str:
        if self.closed:
            return f"<Llava {self.name}, closed>"
        stored = self.quantization or "not quantised"
        return f"<Llava {self.name}, {stored}, {self.dtype} on {self.device}>"

    @property
    def closed(self) -> bool:
        """True once the model has been released."""
        return self.model is None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._open().device

    @property
    def dtype(self) -> str:
        """What the unquantised parts are stored in and all is computed in, e.g. "float16"."""
        return str(self._open().dtype).removeprefix("torch.")

    def caption_image(
        self, image_file: Any, prompt: str = DEFAULT_PROMPT, *, max_new_tokens: int = 512
    ) -> tuple[Image.Image, str]:
        """Return the picture as opened, and the answer's text.

        `image_file` is anything that `open_image` takes: a path, a URL, bytes, an upload.
        Warns if the answer was cut off at `max_new_tokens`.
        """
        picture = open_image(image_file)
        answer = self.ask(picture, prompt, max_new_tokens=max_new_tokens)
        if answer.finish == "limit":
            warnings.warn(
                f"The answer stopped at the limit of {max_new_tokens} tokens; "
                f"caption_image(..., max_new_tokens={2 * max_new_tokens}) gives it more room.",
                stacklevel=2,
            )
        return picture, answer.text

    def ask(
        self,
        image: Any,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Ask about a picture (or None: about nothing seen) and wait for the answer.

        With `temperature` 0 the same question gives the same answer; above it, words
        are drawn at random, from the likeliest `top_p` share if given. `stop` ends the
        answer within two tokens of being set.

        Raises ImageError, PromptError or OutOfVramError, each with its repair.
        """
        settings = Settings(max_new_tokens, temperature, top_p)
        stream = self._prepare(image, prompt, settings)
        return self._run(stream, stop)

    def stream(
        self,
        image: Any,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Give the answer in pieces as it grows; joined, they are `ask`'s text.

        Takes what `ask` takes and raises what `ask` raises, the model's own faults
        included. Leaving the loop early ends the answer.
        """
        settings = Settings(max_new_tokens, temperature, top_p)
        stream = self._prepare(image, prompt, settings)
        return self._pieces(stream, stop)

    def save_4bit(self, folder: str | Path) -> Path:
        """Write the 4-bit model to a folder and return it; `load(folder)` reads it back.

        Replaces a copy saved there earlier and refuses any other folder in use. Raises
        ModelError, or DoesNotFitError if the disk is too small.
        """
        from . import saving

        return saving.save_4bit(self, folder)

    def close(self) -> None:
        """Release the model's memory. Asking afterwards raises ModelError."""
        self.model = self.processor = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prompt_text(self, prompt: str, *, images: int = 1) -> str:
        """Return the exact text that the model is given for a question."""
        picture = self.spelling.picture if self.spelling else prompts.IMAGE_TOKEN
        question = prompts.with_image(prompt, images, picture)
        if self.style is not None:
            return prompts.build([(question, None)], self.style)
        content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        return self.processor.apply_chat_template([message], add_generation_prompt=True)

    def _open(self) -> Any:
        if self.model is None:
            raise ModelError(f'{self.name} has been closed. Load it again: load("{self.name}").')
        return self.model

    def _prepare(self, image: Any, prompt: str, settings: Settings) -> AnswerStream:
        """Turn picture and question into the model's inputs; every check comes first."""
        model, started = self._open(), time.perf_counter()
        if not isinstance(prompt, str) or not prompt.strip():
            raise PromptError(
                'The prompt is empty. Ask something: ask(image, "Describe this picture.").'
            )
        pictures = [] if image is None else [open_image(image)]
        text = self.prompt_text(prompt, images=len(pictures))
        prompts.check_images(text, len(pictures))
        inputs = encode(self.processor, pictures, [text], self.spelling).to(model.device)
        if pictures:
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        context = model.config.get_text_config().max_position_embeddings
        return AnswerStream(inputs, self.processor.tokenizer, settings, context, started)

    def _run(self, stream: AnswerStream, stop: Stop | None) -> Answer:
        """Generate until the end, the limit or the stop, and count what it took."""
        model = self._open()
        on_gpu = model.device.type == "cuda"
        with self._busy:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(model.device)
            try:
                with torch.inference_mode():
                    model.generate(
                        **stream.inputs,
                        **stream.arguments,
                        streamer=stream,
                        stopping_criteria=[StopWhen(stop)] if stop is not None else None,
                    )
            except torch.OutOfMemoryError as error:
                raise OutOfVramError(_out_of_memory(model, stream)) from error
            peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else None
        return stream.answer(peak, model.generation_config.eos_token_id)

    def _pieces(self, stream: AnswerStream, stop: Stop | None) -> Iterator[str]:
        """Generate in a thread; pass on pieces, and whatever goes wrong there."""
        stream.listen()
        left = EitherStop(stop)
        worker = threading.Thread(
            target=stream.work, args=(lambda: self._run(stream, left),), daemon=True
        )
        worker.start()
        try:
            yield from stream.pieces()
        finally:
            left.set()
            worker.join()


def _out_of_memory(model: Any, stream: AnswerStream) -> str:
    free, total = torch.cuda.mem_get_info(model.device)
    return (
        f"The GPU ran out of memory while answering: {format_gib(free)} of {format_gib(total)} "
        f"are free. Ask for a shorter answer (max_new_tokens={stream.limit // 2}), or load a "
        'smaller model: load("llava-1.5-7b").'
    )
