"""A loaded LLaVA, and everything that can be asked of it.

Generating, decoding, stopping and releasing memory happen here and nowhere else; the
notebooks, the panel and the command line are callers. Nothing here knows of widgets.

Covered: one picture or none, one question, an answer at once or in pieces. Not
covered: loading (`loading.py`), pictures (`images.py`), what the model is given
(`inputs.py`), what to do when memory runs out (`recovery.py`).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import prompts
from .answer import Answer
from .errors import ModelError
from .generation import AnswerStream, Settings, Stop, StopWhen
from .images import open_image
from .inputs import prepare, prompt_text
from .peaks import peak_on
from .recovery import free_vram, or_out_of_vram, smaller_steps
from .spelling import Spelling
from .streaming import pieces

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
        return self._run(prepare(self, image, prompt, settings), stop)

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
        return pieces(prepare(self, image, prompt, settings), self._run, stop)

    def save_4bit(self, folder: str | Path) -> Path:
        """Write the 4-bit model to a folder and return it; `load(folder)` reads it back.

        Replaces a copy saved there earlier and refuses any other folder in use. Raises
        ModelError, or DoesNotFitError if the disk is too small.
        """
        from . import saving

        return saving.save_4bit(self, folder)

    def close(self) -> None:
        """Release the model's memory. Asking afterwards raises ModelError.

        An exception of an earlier cell may still hold the model, so it is let go of too,
        as `free_vram()` does it.
        """
        self.model = self.processor = None
        free_vram()

    def prompt_text(self, prompt: str, *, images: int = 1) -> str:
        """Return the exact text that the model is given for a question."""
        return prompt_text(self, prompt, images)

    def _open(self) -> Any:
        if self.model is None:
            raise ModelError(f'{self.name} has been closed. Load it again: load("{self.name}").')
        return self.model

    def _run(self, stream: AnswerStream, stop: Stop | None) -> Answer:
        """Generate until the end, the limit or the stop, and count what it took.

        No variable here holds the model: the frames of an error outlive it in a notebook.
        """
        ends = self._open().generation_config.eos_token_id
        with self._busy, peak_on(self.device) as peak:
            or_out_of_vram(
                lambda: self._generate(stream, stop),
                "answering",
                self.device,
                lambda: smaller_steps(self._open().config, self.quantization, stream.limit),
            )
        return stream.answer(peak.highest, ends)

    def _generate(self, stream: AnswerStream, stop: Stop | None) -> None:
        inputs = {name: tensor.to(self.device) for name, tensor in stream.inputs.items()}
        with torch.inference_mode():
            self._open().generate(
                **inputs,
                **stream.arguments,
                streamer=stream,
                stopping_criteria=[StopWhen(stop)] if stop is not None else None,
            )
