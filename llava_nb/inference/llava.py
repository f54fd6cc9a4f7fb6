"""What people call: a loaded LLaVA. The work is done by its `Engine`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..prompts import DEFAULT_PROMPT, DEFAULT_STYLE, build, check_question, check_questions
from .answer import Answer, Generation, Settings, WaitingLine, takes_settings
from .chat import Chat
from .engine import Engine, Picture

if TYPE_CHECKING:
    import torch


class Llava:
    """A model with its processor. Made by `load()`.

    `name`, `source` (what `load()` takes to load the same again), `reason` (why this model) and
    `quantization` ("4bit", "8bit", or None for unquantised) say what was loaded; `engine` runs it,
    and `prefixes` is what it has read and remembers.

    `ask`, `stream`, `ask_batch` and everything of a `chat` take the same four settings:

    - `max_new_tokens`: the most tokens that the answer may have.
    - `temperature`: with 0 (or None) the same question gives the same answer; above it, words are
      drawn at random, up to about 1 with sense.
    - `top_p`: draw from the likeliest words alone, those that have this share together.
    - `stop`: a `threading.Event` or the like; the answer ends within two tokens of its being set.
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
        spelling: Any = None,
    ) -> None:
        self.name, self.source, self.reason = name, source or name, reason
        self.quantization, self.spelling = quantization, spelling
        about = {"name": name, "quantization": quantization, "style": style, "spelling": spelling}
        self.engine = Engine(model, processor, **about)
        self.prefixes = self.engine.prefixes

    def __repr__(self) -> str:
        if self.closed:
            return f"<Llava {self.name}, closed>"
        stored = self.quantization or "not quantised"
        return f"<Llava {self.name}, {stored}, {self.dtype} on {self.device}>"

    @property
    def model(self) -> Any:
        """The transformers model; None once closed."""
        return None if self.closed else self.engine.network

    @property
    def processor(self) -> Any:
        """The transformers processor; None once closed."""
        return None if self.closed else self.engine.processor

    @property
    def style(self) -> str | None:
        """The conversation's name, which may be set; None is the model's own chat template."""
        return self.engine.style

    @style.setter
    def style(self, name: str | None) -> None:
        if name is not None:
            build([("", None)], str(name))  # raises PromptError for a name that is none
        self.engine.style = name

    @property
    def views(self) -> str | None:
        """How LLaVA-OneVision is shown a picture; None for a model that knows one way only.

        "one" is the whole picture, in 730 tokens; "tiles" are parts of it beside, in up to 8,829,
        which show small things and take a CPU some minutes. May be set.
        """
        return self.engine.views

    @views.setter
    def views(self, views: str) -> None:
        self.engine.views = views

    @property
    def closed(self) -> bool:
        """True once the model has been released."""
        return self.engine.closed

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.engine.network.device

    @property
    def dtype(self) -> str:
        """What the unquantised parts are stored in and all is computed in, e.g. "float16"."""
        return str(self.engine.network.dtype).removeprefix("torch.")

    def caption_image(
        self, image_file: Any, prompt: str = DEFAULT_PROMPT, *, max_new_tokens: int = 512
    ) -> tuple[Image.Image, str]:
        """Return the picture as opened, and the answer's text.

        `image_file` is anything that `open_image` takes: a path, a URL, bytes, an upload.
        Warns if the answer was cut off at `max_new_tokens`. Raises what `ask` raises.
        """
        settings, question = Settings(max_new_tokens), check_question(prompt)
        picture, most = Picture(image_file), settings.max_new_tokens
        answer = self.engine.answer(self._prepare(picture, question, settings))
        if answer.finish == "limit":
            reason = (
                f"at the limit of {most} tokens; caption_image(..., max_new_tokens={2 * most}) "
                "gives it more room."
            )
            if answer.tokens < most:  # then it was not the limit
                reason = (
                    f"after {answer.tokens} tokens: with picture and prompt that is all that "
                    f"{self.name} holds. A shorter prompt leaves more room."
                )
            warnings.warn(f"The answer stopped {reason}", stacklevel=2)
        return picture.images[0], answer.text

    @takes_settings
    def ask(self, image: Any, prompt: str, *, settings: Settings) -> Answer:
        """Ask about a picture (or None: about nothing seen) and wait for the answer.

        `image` is anything that `open_image` takes; for LLaVA-OneVision and LLaVA-Interleave, which
        were trained on several in one question, also a list of pictures. The settings are those of
        `Llava`. Raises ImageError, PromptError, OutOfVramError or, once closed, ModelError, each
        with its repair.
        """
        return self.engine.answer(self._prepare(image, prompt, settings))

    @takes_settings
    def stream(self, image: Any, prompt: str, *, settings: Settings) -> Iterator[str]:
        """Give the answer in pieces as it grows; joined, they are `ask`'s text.

        Takes what `ask` takes and raises what `ask` raises, the model's own faults
        included. Leaving the loop early ends the answer. Where the picture takes more than two
        seconds to read, a line shows for how long it has been read, until the first piece is there.
        """
        generation = self._prepare(image, prompt, settings)
        return generation.pieces(lambda: self.engine.answer(generation), WaitingLine())

    @takes_settings
    def ask_batch(
        self, images: Any, prompts: str | Sequence[str], *, batch_size: int = 8, settings: Settings
    ) -> list[Answer]:
        """Ask about many pictures, `batch_size` at once; the answers are in their order.

        `images` is a list (or generator, column, array) of what `ask` takes, `prompts` as many
        questions; either may be one for all. A list in that list is several pictures for one
        question, as in `ask`. A picture that cannot be read, or does not fit into
        memory even alone, gives an answer with `finish` "failed" and its `error`; the others are
        answered. When memory runs out the batch is halved and tried again. After `stop` the
        pictures not yet begun have empty answers that say "stopped".

        Raises PromptError for lengths that differ, questions that are none, or settings that mean
        nothing.
        """
        return self.engine.ask_batch(images, check_questions(prompts), batch_size, settings)

    def chat(self, image: Any = None, *, forget_oldest: bool = False) -> Chat:
        """Begin a conversation about a picture (or None), which is read once.

        Several pictures are shown as in `ask`; for a model that takes one alone they are laid side
        by side as one, with a warning. `forget_oldest`: when the model is full, leave out the
        oldest questions instead of raising PromptError. Raises ImageError.
        """
        return Chat(self.engine, image, forget_oldest=forget_oldest)

    def save_4bit(self, folder: str | Path) -> Path:
        """Write the 4-bit model to a folder and return it; `load(folder)` reads it back.

        Raises ModelError, or DoesNotFitError if the disk is too small.
        """
        from ..loading.weights import save_4bit

        return save_4bit(self.engine, folder)

    def close(self) -> None:
        """Release the model's memory, when an answer under way in another thread has ended.

        Asking afterwards raises ModelError.
        """
        self.engine.close()

    def prompt_text(self, prompt: str, *, images: int = 1) -> str:
        """Return the exact text that the model is given for a question about so many pictures."""
        return self.engine.prompt_text([(prompt, None)], images)

    def _prepare(self, image: Any, prompt: Any, settings: Settings) -> Generation:
        started, _ = time.perf_counter(), self.engine.context  # which raises once closed
        question = check_question(prompt)  # first: a picture in its place is told at once
        if not isinstance(image, Picture):
            sources = self.engine.sources(image)
            image = Picture(*sources) if sources else None
        generation = self.engine.prepare(image, [(question, None)], settings, started)
        if not generation.limit:
            raise generation.no_room()
        return generation
