"""What a model needs, from its config alone, and whether the disk, the RAM and the VRAM have it.

`estimate_vram()` answers before anything is fetched; `load()` compares with what is free, so that
too little room is found within seconds, and not after 25 GiB of download. The formulas and their
sources are in `sizes.py`. What a model remembers of pictures is not counted: that takes a share of
what is free, and makes room. Nor are the few MiB of tokenizer and settings beside the weights.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import catalog, sizes
from ..errors import DoesNotFitError, ModelError, PromptError, format_gib, plain
from ..gpu import GpuReport, check_gpu, disk_free_bytes, recommend
from ..sizes import ACTIVATIONS, CACHE, CONTEXT, IN_WORDS, ROOM, WEIGHTS, Shape, Work
from ..vram.report import stacked_bar, table
from .find import Checkpoint, WeightFiles, folder_of, is_auto, locate, read_config, text_of

T4_NAME, T4_BYTES = "Tesla T4", 15633743872  # what torch says of the T4 in Colab: 14.56 GiB
FEWER_BITS = {None: ("8bit", "4bit"), "8bit": ("4bit",), "4bit": ()}


@dataclass(frozen=True)
class VramEstimate:
    """What a model takes to answer, in bytes, by part.

    `parts` has the weights by part ("language model", "embeddings", "head", "vision tower",
    "projector"), the "KV cache" and "activations" of this much asked at once, the "CUDA context",
    and what should be "kept free" beside. The last two are allowances. `memory` is "VRAM", or
    "RAM" for a model that is loaded on a CPU. `str()` is a table in GiB; in a notebook it is a bar
    against the GPU's size.
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
        per_thousand = format_gib(1000 * self.kv_bytes_per_token)
        rows = [
            *((name, self.parts[name], "") for name in WEIGHTS),
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
        name = gpu.name if gpu else T4_NAME
        whole = gpu and gpu.total_bytes or T4_BYTES
        beside = "" if gpu else "; this machine has no GPU, so the bar is drawn against a T4"
        short = self.needed_bytes - whole
        fits = f"more by {format_gib(short)} than" if short > 0 else "of"
        note = f"{format_gib(self.needed_bytes)} needed, {fits} the {name}'s {format_gib(whole)}"
        rows = [(part, count) for part, count in self.parts.items() if count]
        return stacked_bar(self.title, rows, whole, name, f"{note}{beside}.")


def estimate_vram(
    model: Any,
    *,
    quantization: str | None = "4bit",
    images: int = 1,
    prompt_tokens: int = sizes.PROMPT_TOKENS,
    max_new_tokens: int = sizes.ANSWER_TOKENS,
    batch_size: int = 1,
) -> VramEstimate:
    """Estimate the VRAM that a model takes to answer, without its weights.

    `model` is a short name, "auto" or a hub id of the catalog, for which nothing is fetched; any
    other hub id, of which config.json alone is; a folder with a config.json in either layout; or a
    loaded Llava, whose own quantization and number format count. In the authors' layout the tower
    counts as LLaVA-1.5's where its folder is not at hand. `prompt_tokens` are those of the
    question, without pictures. A picture counts as the most tokens and tiles that the model makes
    of one: 576 in LLaVA-1.5, up to 2,928 in LLaVA-NeXT and 8,829 in LLaVA-OneVision, by form and
    size (`sizes.most_tokens`). The answer ends where the model's context does.

    Raises ModelError for a model that cannot be found or read, PromptError for numbers that mean
    nothing or exceed the context.
    """
    check_quantization(quantization)
    number, context = sizes.HALF, sizes.CUDA_CONTEXT
    if isinstance(model, (str, Path)):
        name, shape, context_tokens = _described(model, quantization)
    elif hasattr(model, "caption_image"):
        network = model.engine.network
        name, quantization, number = model.name, model.quantization, network.dtype.itemsize
        shape, context_tokens = sizes.shape_of(network.config), sizes.context_of(network.config)
        context = context if network.device.type == "cuda" else 0
    else:
        raise ModelError(
            f"estimate_vram() takes a short name, a hub id, a folder or a loaded model, not "
            f'{type(model).__name__}: estimate_vram("llava-1.5-13b").'
        )
    work = _work(shape, context_tokens, images, prompt_tokens, max_new_tokens, batch_size)
    return VramEstimate(
        model=name,
        quantization=quantization,
        work=work,
        parts=sizes.vram_parts(shape, quantization, work, number=number, context=context),
        tokens=work.tokens(shape),
        kv_bytes_per_token=sizes.kv_bytes_per_token(shape, number),
        memory="VRAM" if context else "RAM",
    )


def check_quantization(quantization: object) -> None:
    """Raise ModelError for anything but "4bit", "8bit" and None, with the nearest of them."""
    if isinstance(quantization, str | None) and quantization in sizes.QUANTIZATIONS:
        return
    shown = plain(repr(quantization)) if isinstance(quantization, (str, int)) else ""
    near = difflib.get_close_matches(shown.replace("nf", ""), ["4bit", "8bit"], 1, 0.3)
    guess = f' Did you mean "{near[0]}"?' if near else ""
    shown = shown or f"a {type(quantization).__name__}"
    raise ModelError(f'quantization={shown} is not known.{guess} It is "4bit", "8bit" or None.')


def _work(
    shape: Shape, context_tokens: int, images: int, prompt: int, answer: int, batch: int
) -> Work:
    """Check the numbers; the answer is cut where the context ends."""
    for name, value, least in (
        ("images", images, 0),
        ("prompt_tokens", prompt, 0),
        ("max_new_tokens", answer, 1),
        ("batch_size", batch, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise PromptError(f"{name} is {value!r}; it is a whole number from {least} on.")
    room = context_tokens - images * shape.image_tokens - prompt
    if room < 1:
        raise PromptError(
            f"{images} picture(s) of {shape.image_tokens} tokens and {prompt} tokens of question "
            f"are {context_tokens - room} tokens, and the model holds {context_tokens}. "
            f"Take {1 - room} or more away."
        )
    return Work(images, prompt, min(answer, room), batch)


def _described(model: str | Path, quantization: str | None) -> tuple[str, Shape, int]:
    """Return the name, the shape and the context of a model that is not loaded."""
    if is_auto(model):
        model = recommend(check_gpu(ask_torch=True)).model
    known = {name.casefold() for name in catalog.all_names()}
    if isinstance(model, str) and model.strip().casefold() in known:
        entry = catalog.find(model)
        return entry.name, entry.shape, entry.context_tokens
    folder = folder_of(text_of(model))
    if (folder / "config.json").is_file():  # the weights may be elsewhere, or not there yet
        checkpoint = Checkpoint(folder.resolve().name, str(folder), "", True)
    else:
        checkpoint = locate(model)
    raw = read_config(checkpoint, quantization, "estimate_vram", token=False, cache_dir=None)
    from .source import config_alone  # transformers, which the catalog does not need

    config = config_alone(checkpoint, raw)
    return checkpoint.name, sizes.shape_of(config), sizes.context_of(config)


def seconds_on_cpu(config: Any) -> tuple[float, float]:
    """Return about how long a first token takes on this CPU, picture included, and a later one.

    In float32, of a picture in one view and 30 tokens of question. The arithmetic of the first
    token bounds it, the weights that are read for one token bound the others; both speeds are
    measured here, in about a second, by two products of matrices.
    """
    import torch

    def quickest(rows: int) -> float:
        some, weights = torch.ones(rows, 1024), torch.ones(1024, 2**14)  # 64 MiB: past the caches
        times = []
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(some, weights)
            times.append(time.perf_counter() - started)
        return min(times)

    shape = sizes.shape_of(config)
    places = shape.tower_positions
    linears = sum(rows * columns for rows, columns in sizes.linear_shapes(shape))
    tokens = min(shape.image_tokens, places + 1) + 30
    products = linears * tokens + sizes.tower_parameters(shape) * places
    first = products * quickest(256) / (256 * 1024 * 2**14)
    each = (linears + shape.vocabulary * shape.hidden) * quickest(1) / (1024 * 2**14)
    return first, each


@dataclass(frozen=True)
class Free:
    """What is free on a machine, in bytes; None is unknown. `place` is as in GpuReport."""

    vram: int | None = None
    ram: int | None = None
    disk: int | None = None
    place: str = "local"


@dataclass(frozen=True)
class Needs:
    """What a model needs, in bytes, beside what is free.

    `vram` is None without a GPU; `fetch` is what is still to be downloaded into the folder `cache`.
    `read_whole` is the part of `ram` for old files that cannot be mapped. `alternatives` are what
    to ask of load() instead, the nearest first, each with its own needs. `str()` is a table.
    """

    vram: int | None
    ram: int
    fetch: int
    free: Free = Free()
    cache: str = ""
    read_whole: int = 0
    largest_file: int = 0
    format: str = ""
    alternatives: tuple[tuple[str, Needs], ...] = ()

    @property
    def rows(self) -> list[tuple[str, int, int | None, int]]:
        """(what, needed, free, short by), in bytes; without VRAM where no GPU is used."""
        rows = [("RAM", self.ram, self.free.ram), ("disk", self.fetch, self.free.disk)]
        if self.vram is not None:
            rows.insert(0, ("VRAM", self.vram, self.free.vram))
        return [
            (what, needed, free, 0 if free is None else max(needed - free, 0))
            for what, needed, free in rows
        ]

    @property
    def fits(self) -> bool:
        """Whether nothing is short, as far as is known."""
        return not any(short for *_, short in self.rows)

    def __str__(self) -> str:
        lines = [f"{'':<6}{'needed':>12}{'free':>12}"]
        for what, needed, free, short in self.rows:
            note = f"  short by {format_gib(short)}" if short else ""
            lines.append(f"{what:<6}{format_gib(needed):>12}{format_gib(free):>12}{note}")
        if self.largest_file:
            largest = format_gib(self.largest_file)
            lines.append(f"weights in {self.format} files, the largest {largest}")
        return "\n".join(lines)


def needs(
    config: Any,
    files: Sequence[WeightFiles],
    *,
    quantization: str | None,
    device: str,
    cache_dir: str | None,
    report: GpuReport | None = None,
) -> Needs:
    """Return what the model needs with `quantization` on `device` ("cuda:0", "cpu").

    `config` is transformers' config of the model; `files` are those of every source: of the
    checkpoint, and of a vision tower that is kept apart. None in `cache_dir` is the Hugging Face
    cache. What is free is told by `report`; without one the machine is looked at.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    report = report or check_gpu(ask_torch=True)
    shape, cache = sizes.shape_of(config), str(cache_dir or HF_HUB_CACHE)
    on_gpu, index = device.startswith("cuda"), int(device.partition(":")[2] or 0)
    read_whole = sum(each.read_whole_bytes for each in files)
    fetch = sum(each.fetch_bytes for each in files)

    def needs_of(shape: Shape, bits: str | None, context: int, fetch: int, whole: int) -> Needs:
        vram = sizes.needed_vram_bytes(shape, bits, context) if on_gpu else None
        ram = sizes.needed_ram_bytes(shape, bits, on_gpu=on_gpu)
        return Needs(vram, ram + whole, fetch)

    alternatives = []
    # What is stored in 8 bits already cannot be loaded in 4.
    is_stored = getattr(config, "quantization_config", None) is not None
    for bits in () if is_stored else FEWER_BITS[quantization]:
        call = f'the same model {IN_WORDS[bits]}, load(..., quantization="{bits}")'
        fewer = needs_of(shape, bits, sizes.context_of(config), fetch, read_whole)
        alternatives.append((call, fewer))
    for model in reversed(catalog.known_models()):
        if model.parameters < sizes.parameters(shape):
            smaller = needs_of(model.shape, "4bit", model.context_tokens, model.download_bytes, 0)
            alternatives.append((f'load("{model.name}")', smaller))
    return replace(
        needs_of(shape, quantization, sizes.context_of(config), fetch, read_whole),
        free=Free(
            next((gpu.free_bytes for gpu in report.gpus if gpu.index == index), None),
            report.ram_available_bytes,
            disk_free_bytes(cache),
            report.place,
        ),
        cache=cache,
        read_whole=read_whole,
        largest_file=max((each.largest_bytes for each in files), default=0),
        format=files[0].format if files else "",
        alternatives=tuple(alternatives),
    )


def check_fits(name: str, needs: Needs, *, quantization: str | None) -> None:
    """Raise DoesNotFitError if disk, RAM or VRAM is known to be short.

    The message has each number, what is short by how much, and the nearest that fits.
    """
    if needs.fits:
        return
    how = "" if quantization == "4bit" else f" {IN_WORDS[quantization]}"  # 4 bits is the default
    restart = " (Runtime > Restart session)" if needs.free.place == "colab" else ""
    nearest = f"Nothing smaller fits either: free the memory first{restart}."
    for call, alternative in needs.alternatives:
        if replace(alternative, free=needs.free).fits:
            nearest = f"The nearest that fits: {call}."
            break
    raise DoesNotFitError(
        f"{name}{how} does not fit: {_numbers(needs)} {nearest} "
        "load(..., check=False) tries all the same."
    )


def _numbers(needs: Needs) -> str:
    """A sentence for each of VRAM, RAM and disk, what is short first."""
    sentences = []
    for what, needed, free, short in sorted(needs.rows, key=lambda row: not row[-1]):
        said = f"{what} needed {format_gib(needed)}, free {format_gib(free)}"
        said += f", short by {format_gib(short)}." if short else "."
        if what == "RAM" and needs.read_whole:
            said += f" {format_gib(needs.read_whole)} of that RAM is for .bin files in the format "
            said += "of torch before 1.6, which can only be read whole."
        if what == "disk" and short:
            said += f" Downloads go to {needs.cache}; to another disk: load(..., cache_dir=...)."
        sentences.append(said[0].upper() + said[1:] if sentences else said)
    return " ".join(sentences)
