"""Before anything is fetched or allocated: does the model fit the disk, the RAM and the VRAM?

What a model needs follows from its config (`sizes.py`) and from the sizes of its weight
files (`weight_files.py`). Too little room is found here within seconds, and not after
25 GiB of download.

The few MiB of tokenizer and settings beside the weights are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import sizes
from .catalog import known_models
from .errors import DoesNotFitError
from .gpu import check_gpu, disk_free_bytes, free_ram_bytes
from .sizes import IN_WORDS, Shape, context_of, format_gib, shape_of
from .weight_files import WeightFiles, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Needs", "WeightFiles", "check_fits", "needs", "shape_of", "weight_files"]

FEWER_BITS = {None: ("8bit", "4bit"), "8bit": ("4bit",), "4bit": ()}


@dataclass(frozen=True)
class Needs:
    """What a model needs and what is free, in bytes; None is unknown.

    `fetch` is what is still to be downloaded into the folder `cache`. `vram` is None
    without a GPU. `read_whole` is the part of `ram` for old files that cannot be
    mapped. `alternatives` are what to ask of load() instead, the nearest first, each with
    its own needs. `str()` is a table for people.
    """

    fetch: int
    disk_free: int | None
    ram: int
    ram_free: int | None
    vram: int | None
    vram_free: int | None
    largest_file: int
    format: str
    cache: str = ""
    read_whole: int = 0
    alternatives: tuple[tuple[str, Needs], ...] = ()

    @property
    def rows(self) -> list[tuple[str, int, int | None]]:
        """(what, needed, free), in bytes; without VRAM where no GPU is used."""
        vram = [] if self.vram is None else [("VRAM", self.vram, self.vram_free)]
        return [*vram, ("RAM", self.ram, self.ram_free), ("disk", self.fetch, self.disk_free)]

    @property
    def fits(self) -> bool:
        """Whether nothing is short, as far as is known."""
        return not any(_short(needed, free) for _, needed, free in self.rows)

    def __str__(self) -> str:
        lines = [f"{'':<6}{'needed':>12}{'free':>12}"]
        for what, needed, free in self.rows:
            short = _short(needed, free)
            note = f"  short by {format_gib(short)}" if short else ""
            lines.append(f"{what:<6}{format_gib(needed):>12}{format_gib(free):>12}{note}")
        if self.largest_file:
            largest = format_gib(self.largest_file)
            lines.append(f"weights in {self.format} files, the largest {largest}")
        return "\n".join(lines)


def _short(needed: int, free: int | None) -> int:
    """Bytes that are missing; 0 where enough is free, or nobody knows."""
    return 0 if free is None else max(needed - free, 0)


def needs(
    config: PretrainedConfig,
    files: Sequence[WeightFiles],
    *,
    quantization: str | None,
    device: str,
    cache_dir: str | None,
) -> Needs:
    """Return what the model needs with `quantization` on `device` ("cuda:0", "cpu").

    `files` are those of every source: of the checkpoint, and of a vision tower that is
    kept apart. Looks at the machine; None in `cache_dir` is the Hugging Face cache.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    shape, cache = shape_of(config), str(cache_dir or HF_HUB_CACHE)
    context_tokens = context_of(config)
    on_gpu = device.startswith("cuda")
    machine = Needs(
        fetch=sum(each.fetch_bytes for each in files),
        disk_free=disk_free_bytes(cache),
        ram=0,
        ram_free=free_ram_bytes(),
        vram=0 if on_gpu else None,
        vram_free=_free_vram_bytes(device) if on_gpu else None,
        largest_file=max((each.largest_bytes for each in files), default=0),
        format=files[0].format if files else "",
        cache=cache,
        read_whole=sum(each.read_whole_bytes for each in files),
    )
    # What is stored in 8 bits already cannot be loaded in 4.
    is_stored = getattr(config, "quantization_config", None) is not None
    fewer = [
        (
            f'the same model {IN_WORDS[bits]}, load(..., quantization="{bits}")',
            _sized(machine, shape, bits, context_tokens),
        )
        for bits in (() if is_stored else FEWER_BITS[quantization])
    ]
    asked = _sized(machine, shape, quantization, context_tokens)
    return replace(asked, alternatives=(*fewer, *_smaller(machine, shape)))


def _sized(machine: Needs, shape: Shape, quantization: str | None, context_tokens: int) -> Needs:
    """The same machine and files, with the memory that a model of this shape needs."""
    on_gpu = machine.vram is not None
    ram = sizes.needed_ram_bytes(shape, quantization, on_gpu=on_gpu) + machine.read_whole
    vram = sizes.needed_vram_bytes(shape, quantization, context_tokens) if on_gpu else None
    return replace(machine, ram=ram, vram=vram)


def _smaller(machine: Needs, shape: Shape) -> tuple[tuple[str, Needs], ...]:
    """The models with a short name that are smaller, in 4 bits, the largest first."""
    machine = replace(machine, read_whole=0)
    return tuple(
        (
            f'load("{model.name}")',
            replace(
                _sized(machine, model.shape, "4bit", model.context_tokens),
                fetch=model.download_bytes,
            ),
        )
        for model in reversed(known_models())
        if model.parameters < sizes.parameters(shape)
    )


def _free_vram_bytes(device: str) -> int | None:
    index = int(device.partition(":")[2] or 0)
    gpus = check_gpu(ask_torch=True).gpus
    return next((gpu.free_bytes for gpu in gpus if gpu.index == index), None)


def check_fits(name: str, needs: Needs, *, quantization: str | None) -> None:
    """Raise DoesNotFitError if disk, RAM or VRAM is known to be short.

    The message has each number, what is short by how much, and the nearest that fits.
    """
    if needs.fits:
        return
    how = "" if quantization == "4bit" else f" {IN_WORDS[quantization]}"  # 4 bits is the default
    raise DoesNotFitError(
        f"{name}{how} does not fit: {_numbers(needs)} {_nearest(needs)} "
        "load(..., check=False) tries all the same."
    )


def _numbers(needs: Needs) -> str:
    """A sentence for each of VRAM, RAM and disk, what is short first."""
    sentences = []
    for what, needed, free in sorted(needs.rows, key=lambda row: not _short(*row[1:])):
        short = _short(needed, free)
        said = f"{what} needed {format_gib(needed)}, free {format_gib(free)}"
        said += f", short by {format_gib(short)}." if short else "."
        if what == "RAM" and needs.read_whole:
            said += f" {format_gib(needs.read_whole)} of that RAM is for .bin files in the format "
            said += "of torch before 1.6, which can only be read whole."
        if what == "disk" and short:
            said += f" Downloads go to {needs.cache}; to another disk: load(..., cache_dir=...)."
        sentences.append(said[0].upper() + said[1:] if sentences else said)
    return " ".join(sentences)


def _nearest(needs: Needs) -> str:
    for call, alternative in needs.alternatives:
        if alternative.fits:
            return f"The nearest that fits: {call}."
    return "Nothing smaller fits either: free the memory first (Runtime > Restart session)."
