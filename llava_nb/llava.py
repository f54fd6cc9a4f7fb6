"""A loaded LLaVA, and everything that can be asked of it.

The notebooks, the panel and the command line are callers of this class and of nothing
below it. Nothing here knows of widgets.

Covered: one picture or none, one question, an answer at once or in pieces; what the
model read before is not read again. Not covered: loading (`loading.py`), pictures
(`images.py`), what the model is given (`inputs.py`), how it is run (`running.py`),
conversations (`chat.py`), many pictures (`batch.py`).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .answer import Answer
from .errors import ModelError, PromptError
from .images import open_image
from .inputs import prepare, prompt_text
from .prefix_cache import PrefixCache
from .processor import Spelling
from .prompts import DEFAULT_STYLE, check_question
from .running import run
from .settings import Settings, Stop, shown, whole_number
from .streaming import pieces
from .vram import register
from .vram.free import free_vram

if TYPE_CHECKING:
    import torch

    from .chat import Chat
    from .fast import FastDecoder, FastReport

DEFAULT_PROMPT = "Describe this picture."


class Llava:
    """A model with its processor. Made by `load()`.

    `model` and `processor` are the transformers objects; `name`, `source` (what `load()`
    takes to load the same again), `reason` (why this model), `quantization` and `style` (of the
    conversation, None for the model's own chat template) say what was loaded. `spelling` is
    how a prompt is written for the tokenizer where that takes care (`spelling.py`), else None.
    `prefixes` is what the model has read and remembers; `fast` says whether decoding is
    compiled (`fast.py`), None if that was not asked for.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        source: str | None = None,
        reason: str = "",
        quantization: str | None = None,
        style: str | None = DEFAULT_STYLE,
        spelling: Spelling | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.name, self.reason, self.source = name, reason, source or name
        self.quantization, self.style, self.spelling = quantization, style, spelling
        self.prefixes = PrefixCache()
        self.fast: FastReport | None = None
        self.decoder: FastDecoder | None = None
        # Taken again by the same thread where `stop.is_set()` asks or closes.
        self._busy = threading.RLock()
        register(self)

    def __repr__(self) -> str:
        if self.closed:
            return f"<Llava {self.name}, closed>"
        stored = self.quantization or "not quantised"
        return f"<Llava {self.name}, {stored}, {self.dtype} on {self.device}>"

    @property
    def engine(self) -> Llava:
        """What runs the model."""
        return self

    @property
    def network(self) -> Any:
        """The transformers model. Raises ModelError once it is closed."""
        return self._open()

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
        question, most = check_question(prompt), Settings(max_new_tokens).max_new_tokens
        picture = open_image(image_file)
        answer = self.ask(picture, question, max_new_tokens=most)
        if answer.finish == "limit":
            why = (
                f"The answer stopped at the limit of {most} tokens; "
                f"caption_image(..., max_new_tokens={2 * most}) gives it more room."
            )
            if answer.tokens < most:
                why = (
                    f"The answer stopped after {answer.tokens} tokens: with picture and prompt "
                    f"that is all that {self.name} holds. A shorter prompt leaves more room."
                )
            warnings.warn(why, stacklevel=2)
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
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        return run(self, prepare(self, image, prompt, settings), stop)

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
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        return pieces(prepare(self, image, prompt, settings), partial(run, self), stop)

    def ask_batch(
        self,
        images: Any,
        prompts: str | Sequence[str],
        *,
        batch_size: int = 8,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> list[Answer]:
        """Ask about many pictures, `batch_size` at once; the answers are in their order.

        `images` is a list of what `ask` takes, `prompts` a list of the same length; either
        may be one for all. A picture that cannot be read, or does not fit into memory
        even alone, gives an answer with `finish` "failed" and its `error`; the others are
        answered. When memory runs out the batch is halved and tried again. After
        `stop` the pictures not yet begun have empty answers that say "stopped".

        Raises PromptError for lengths that differ or settings that mean nothing.
        """
        from . import batch

        settings = Settings(max_new_tokens, temperature, top_p, stop)
        return batch.ask_batch(self, images, prompts, batch_size, settings, stop)

    def chat(self, image: Any = None, *, forget_oldest: bool = False) -> Chat:
        """Begin a conversation about a picture (or None), which is read once.

        A list of several pictures is laid side by side as one, with a warning.
        `forget_oldest`: when the model is full, leave out the oldest questions instead of
        raising PromptError. Raises ImageError.
        """
        from .chat import Chat

        return Chat(self, image, forget_oldest=forget_oldest)

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
        with self._busy:  # an answer under way in another thread ends first
            self.model = self.processor = self.decoder = None
            self.prefixes.clear()
        free_vram()

    def prompt_text(self, prompt: str, *, images: int = 1) -> str:
        """Return the exact text that the model is given for a question about so many pictures."""
        number = whole_number(images, lowest=0)
        if number is None:
            raise PromptError(f"images is {shown(images)}; it is how many pictures there are.")
        return prompt_text(self, [(check_question(prompt), None)], number)

    def _open(self) -> Any:
        if self.model is None:
            raise ModelError(f'{self.name} has been closed. Load it again: load("{self.name}").')
        return self.model
