"""LLaVA checkpoints with random weights, of any size, to measure how they are loaded.

Two layouts: "original", that of the LLaVA authors (zip `.bin` shards, the vision tower in a
folder beside it), and "transformers" (safetensors, all in one). Names and shapes are taken from a
transformers model without memory, so that no model is built; a shard's tensors are in RAM together
while it is written, and no more. A tensor has the same numbers in both layouts, however many shards
there are.

Not covered: the small files (`checkpoint_settings.py`), and sense: such a model answers gibberish.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from checkpoint_settings import (
    build_config,
    write_original_settings,
    write_pixels,
    write_transformers_settings,
)
from safetensors.torch import save_file
from transformers import LlavaConfig

from llava_nb.original import expected_shapes
from llava_nb.sizes import HALF, Shape, weights_bytes

LAYOUTS = ("original", "transformers")
TOWER = "model.vision_tower."
# The tower is small: what is measured is the language model, which alone is quantised.
SMALL = Shape(256, 0, 688, 2048, 64, 4, 128, 17)
LLAMA_WIDTHS, LLAMA_RATIO, FEWEST_LAYERS = (2048, 1024, 512, 256), 2.6875, 8
# From the names in a transformers 5 model to those in the files.
_TO_ORIGINAL = (
    (r"^model\.vision_tower\.(vision_model\.)?", "vision_model."),  # in the tower's own file
    (r"^model\.language_model\.", "model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
)
_TO_TRANSFORMERS = (
    (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
)


def shape_for(size_bytes: int) -> Shape:
    """Return a shape of about this many bytes in float16, in Llama 7B's proportions.

    The widest of `LLAMA_WIDTHS` that leaves eight layers or more; 20 MB is about the least.
    """
    for hidden in LLAMA_WIDTHS:
        intermediate = 64 * round(hidden * LLAMA_RATIO / 64)  # 4-bit kernels go by blocks
        shape = replace(SMALL, hidden=hidden, intermediate=intermediate)
        around = weights_bytes(shape, None)
        layer = weights_bytes(replace(shape, layers=1), None) - around
        layers = round((size_bytes - around) / layer)
        if layers >= FEWEST_LAYERS:
            break
    return replace(shape, layers=max(layers, 1))


def write_checkpoint(folder: Path, shape: Shape, layout: str, shards: int) -> Path:
    """Write a checkpoint into `folder`/model, in `layout` and `shards` files; return its folder."""
    model = folder / "model"
    model.mkdir(parents=True)
    config = build_config(shape)
    if layout == "original":
        _write_tower(folder / "tower", config)
        write_original_settings(model, shape)
    else:
        write_transformers_settings(model, config)
    names = [
        (name, size)
        for name, size in expected_shapes(config).items()
        if layout == "transformers" or not name.startswith(TOWER)
    ]
    _write_shards(model, _split(names, shards), layout)
    return model


def weight_file_sizes(folder: Path) -> list[int]:
    """Return the bytes of every weight file in `folder`."""
    return [file.stat().st_size for file in _weight_files(folder)]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix in (".bin", ".safetensors"))


def _write_tower(folder: Path, config: LlavaConfig) -> None:
    """Write the vision half of a CLIP in float32, as OpenAI's is."""
    config.vision_config.save_pretrained(folder)
    write_pixels(folder, config)
    tensors = {
        _renamed(name, "original"): random_tensor(name, size).float()
        for name, size in expected_shapes(config).items()
        if name.startswith(TOWER)
    }
    torch.save(tensors, folder / "pytorch_model.bin")


def _renamed(name: str, layout: str) -> str:
    for pattern, new in _TO_ORIGINAL if layout == "original" else _TO_TRANSFORMERS:
        if re.search(pattern, name):
            return re.sub(pattern, new, name)
    return name


def _split(names: list[tuple[str, tuple[int, ...]]], shards: int) -> list[list]:
    """Cut the list into `shards` parts of about the same number of bytes."""
    sizes = [HALF * torch.Size(size).numel() for _, size in names]
    parts: list[list] = [[] for _ in range(shards)]
    before = 0
    for each, size in zip(names, sizes, strict=True):
        parts[min((before + size // 2) * shards // sum(sizes), shards - 1)].append(each)
        before += size
    return parts


def _write_shards(folder: Path, parts: list[list], layout: str) -> None:
    stem, suffix = ("pytorch_model", "bin") if layout == "original" else ("model", "safetensors")
    where, total = {}, 0
    for number, part in enumerate(parts, start=1):
        several = f"-{number:05}-of-{len(parts):05}" if len(parts) > 1 else ""
        file = folder / f"{stem}{several}.{suffix}"
        sizes = _write_shard(file, part, layout)
        where |= dict.fromkeys(sizes, file.name)
        total += sum(sizes.values())
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=1))


def _write_shard(file: Path, part: list, layout: str) -> dict[str, int]:
    """Write one file, and return the bytes of what is in it, by name."""
    tensors = {_renamed(name, layout): random_tensor(name, size) for name, size in part}
    if layout == "original":
        torch.save(tensors, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def random_tensor(name: str, size: tuple[int, ...]) -> torch.Tensor:
    """Return float16 numbers that go with the name: a block of random ones, over and over.

    A new number for every place would take minutes for 13B, and no loader could tell.
    """
    count = torch.Size(size).numel()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    block = torch.randn(min(count, 2**20), generator=generator).mul_(0.02).half()
    return block.repeat(-(-count // len(block)))[:count].reshape(size).clone()
