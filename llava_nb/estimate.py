"""`estimate_vram()`: what a model will take, from its config alone, before anything is fetched.

What a model remembers of pictures is not in it: that takes a share of what is free, and makes room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import catalog, sizes
from .errors import ModelError, PromptError
from .gpu import check_gpu, recommend
from .sizes import (
    ACTIVATIONS,
    CACHE,
    CONTEXT,
    IN_WORDS,
    QUANTIZATIONS,
    ROOM,
    WEIGHTS,
    Shape,
    Work,
    context_of,
    format_gib,
    kv_bytes_per_token,
    shape_of,
    vram_parts,
)
from .vram.report import stacked_bar, table

if TYPE_CHECKING:
    from .inference.llava import Llava

T4_NAME, T4_BYTES = "Tesla T4", 15633743872  # what torch says of the T4 in Colab: 14.56 GiB


@dataclass(frozen=True)
class VramEstimate:
    """What a model takes to answer, in bytes, by part.

    `parts` has the weights by part ("language model", "embeddings", "head", "vision
    tower", "projector"), the "KV cache" and "activations" of this much asked at once,
    the "CUDA context", and what should be "kept free" beside. The last two are
    allowances. `memory` is "VRAM", or "RAM" for a model that is loaded on a CPU.
    `str()` is a table in GiB; in a notebook it is a bar against the GPU's size.
    """

    model: str
    quantization: str | None
    work: Work
    parts: dict[str, int] = field(hash=False)
    tokens: int
    kv_bytes_per_token: int
    memory: str = "VRAM"

    @property
    def weights_bytes(self) -> int:
        """The weights."""
        return sum(self.parts[name] for name in WEIGHTS)

    @property
    def kv_bytes(self) -> int:
        """The KV cache of all prompts, pictures and answers together."""
        return self.parts[CACHE]

    @property
    def total_bytes(self) -> int:
        """All that is in use at the peak, the CUDA context included."""
        return self.needed_bytes - self.parts[ROOM]

    @property
    def needed_bytes(self) -> int:
        """What should be free before loading: the total and what is kept free beside it."""
        return sum(self.parts.values())

    @property
    def title(self) -> str:
        """What was estimated, in one line."""
        work = self.work
        pictures = f"{work.images} picture{'' if work.images == 1 else 's'}"
        times = f", {work.batch} at once" if work.batch > 1 else ""
        return (
            f"{self.model} {IN_WORDS[self.quantization]}: {pictures}, "
            f"{work.prompt_tokens} tokens of question, {work.new_tokens} of answer{times}"
        )

    def __str__(self) -> str:
        rows = [(name, self.parts[name], "") for name in WEIGHTS]
        per_thousand = format_gib(1000 * self.kv_bytes_per_token)
        rows += [
            ("", None, ""),
            ("weights", self.weights_bytes, ""),
            (CACHE, self.kv_bytes, f"{self.tokens} tokens; {per_thousand} for 1,000"),
            (ACTIVATIONS, self.parts[ACTIVATIONS], "at the first token"),
            (CONTEXT, self.parts[CONTEXT], "an allowance"),
            ("", None, ""),
            ("in use", self.total_bytes, f"of {self.memory}"),
            (ROOM, self.parts[ROOM], "an allowance"),
            ("needed", self.needed_bytes, f"of {self.memory}"),
        ]
        return f"{self.title}\n{table([row for row in rows if row[0] != CONTEXT or row[1]])}"

    def _repr_html_(self) -> str:
        gpu = max(check_gpu().gpus, key=lambda each: each.total_bytes or 0, default=None)
        name, whole = (gpu.name, gpu.total_bytes) if gpu else (T4_NAME, None)
        beside = "" if gpu else "; this machine has no GPU, so the bar is drawn against a T4"
        whole = whole or T4_BYTES
        short = self.needed_bytes - whole
        fits = f"more by {format_gib(short)} than" if short > 0 else "of"
        note = f"{format_gib(self.needed_bytes)} needed, {fits} the {name}'s {format_gib(whole)}"
        rows = [(part, count) for part, count in self.parts.items() if count]
        return stacked_bar(self.title, rows, whole, name, f"{note}{beside}.")


def estimate_vram(
    model: str | Path | Llava,
    *,
    quantization: str | None = "4bit",
    images: int = 1,
    prompt_tokens: int = sizes.PROMPT_TOKENS,
    max_new_tokens: int = sizes.ANSWER_TOKENS,
    batch_size: int = 1,
) -> VramEstimate:
    """Estimate the VRAM that a model takes to answer, without its weights.

    `model` is a short name, "auto" or a hub id of the catalog, for which nothing is fetched;
    any other hub id, of which config.json alone is; a folder with a config.json in
    either layout; or a loaded Llava, whose own quantization and number format count. In
    the authors' layout the tower counts as LLaVA-1.5's where its folder is not at hand.
    `prompt_tokens` are those of the question, without pictures. A picture counts as the
    most tokens and tiles that the model makes of one: 576 in LLaVA-1.5, up to 2,928 in
    LLaVA-NeXT and 8,829 in LLaVA-OneVision, by form and size (`sizes.most_tokens`). The
    answer ends where the model's context does. The formulas and their sources: `sizes.py`.

    Raises ModelError for a model that cannot be found or read, PromptError for numbers
    that mean nothing or exceed the context.
    """
    # bitsandbytes is not needed for an estimate, so only a word that is none is looked at there.
    if not (quantization is None or isinstance(quantization, str)) or (
        quantization not in QUANTIZATIONS
    ):
        from .quantise import check_choice

        check_choice(quantization)
    number, context = sizes.HALF, sizes.CUDA_CONTEXT
    if isinstance(model, (str, Path)):
        name, shape, holds = _described(model, quantization)
    else:
        network = _network(model)
        name, quantization, shape = model.name, model.quantization, shape_of(network.config)
        holds = context_of(network.config)
        number = network.dtype.itemsize
        context = context if network.device.type == "cuda" else 0
    work = _work(shape, holds, images, prompt_tokens, max_new_tokens, batch_size)
    return VramEstimate(
        model=name,
        quantization=quantization,
        work=work,
        parts=vram_parts(shape, quantization, work, number=number, context=context),
        tokens=work.tokens(shape),
        kv_bytes_per_token=kv_bytes_per_token(shape, number),
        memory="VRAM" if context else "RAM",
    )


def _work(shape: Shape, holds: int, images: int, prompt: int, answer: int, batch: int) -> Work:
    """Check the numbers; the answer is cut where the context ends."""
    least = {"images": (images, 0), "prompt_tokens": (prompt, 0)}
    least |= {"max_new_tokens": (answer, 1), "batch_size": (batch, 1)}
    for name, (value, lowest) in least.items():
        if not isinstance(value, int) or value < lowest:
            raise PromptError(f"{name} is {value!r}; it is a whole number from {lowest} on.")
    room = holds - images * shape.image_tokens - prompt
    if room < 1:
        raise PromptError(
            f"{images} picture(s) of {shape.image_tokens} tokens and {prompt} tokens of question "
            f"are {holds - room} tokens, and the model holds {holds}. Take {1 - room} or more away."
        )
    return Work(images, prompt, min(answer, room), batch)


def _network(model: Any) -> Any:
    """Return the transformers model of a Llava that is open, or raise ModelError."""
    if not hasattr(model, "caption_image"):
        raise ModelError(
            f"estimate_vram() takes a short name, a hub id, a folder or a loaded model, not "
            f'{type(model).__name__}: estimate_vram("llava-1.5-13b").'
        )
    return model.engine.network


def _described(model: str | Path, quantization: str | None) -> tuple[str, Shape, int]:
    """Return the name, the shape and the context of a model that is not loaded."""
    known = {name.casefold() for name in catalog.all_names()}
    if model == "auto":
        model = recommend(check_gpu(ask_torch=True)).model
    if isinstance(model, str) and model.strip().casefold() in known:
        entry = catalog.find(model)
        return entry.name, entry.shape, entry.context_tokens
    from .configs import config_alone  # transformers, which the catalog does not need

    return config_alone(model, quantization)
