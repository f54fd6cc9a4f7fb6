"""LLaVA models and checkpoints with random weights, of any size: what benchmarks load and ask.

Such a model answers gibberish. A checkpoint comes in two layouts: "original", that of the LLaVA
authors (zip `.bin` shards, the vision tower in a folder beside it), and "transformers"
(safetensors, all in one). Names and shapes of weights are taken from a transformers model without
memory, so that no model is built; a tensor has the same numbers in both layouts.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from llava_nb import Llava, check_gpu
from llava_nb.catalog import find
from llava_nb.loading.load import device_and_dtype
from llava_nb.loading.source import expected_shapes
from llava_nb.loading.weights import check_modules, hush_bitsandbytes, keep_scales, settings
from llava_nb.processor import build_processor, prompt_style
from llava_nb.sizes import HALF, Shape
from llava_nb.vram.report import large_blocks_apart

PARITY = Path(__file__).parents[1] / "data" / "parity"  # its tokenizer has 640 pieces
ORIGINAL, CLIP = PARITY / "llava-v1.5-tiny", PARITY / "tiny-clip-vit"
TOWER = "model.vision_tower."
SHAPES = {"7b": find("llava-1.5-7b").shape, "13b": find("llava-1.5-13b").shape}
CONTEXT_TOKENS, HEAD_WIDTH, TOWER_HEAD_WIDTH = 4096, 128, 64  # LLaVA-1.5's
# The tower is small: what is measured is the language model, which alone is quantised.
SMALL = Shape(256, 12, 704, 2048, 64, 4, 128, 17)  # 20 MB in float16
TWO_GIB = replace(SMALL, hidden=2048, layers=21, intermediate=5504)  # in Llama 7B's proportions
SCALE, BLOCK = 8, 64  # 4-bit kernels go by blocks
# About 100 million parameters in LLaVA-1.5-7B's proportions, the tower 4 % of it, and its 576 image
# tokens: reading a prompt costs what it costs beside making a token, where 7B would take minutes.
# The second is for --quick.
MID_SIZE = Shape(768, 13, 2048, 704, 256, 5, 1024, 577), Shape(128, 2, 320, 704, 64, 2, 128, 577)
# From the names in a transformers 5 model to those in the files.
NAMES = {
    "original": (
        (r"^model\.vision_tower\.(vision_model\.)?", "vision_model."),  # in the tower's own file
        (r"^model\.language_model\.", "model."),
        (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    ),
    "transformers": (
        (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    ),
}


# --- shapes and settings ------------------------------------------------------------------------


def scaled_down(shape: Shape) -> Shape:
    """Return an eighth of the width and of the layers, with a small tower and few words."""
    return replace(
        SMALL,
        hidden=shape.hidden // SCALE,
        layers=shape.layers // SCALE,
        intermediate=BLOCK * round(shape.intermediate / SCALE / BLOCK),
    )


def build_config(shape: Shape) -> LlavaConfig:
    """Return the config of a LLaVA of this shape, as transformers has it."""
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_intermediate,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=max(shape.tower_hidden // TOWER_HEAD_WIDTH, 1),
        image_size=round((shape.tower_positions - 1) ** 0.5) * shape.patch,
        patch_size=shape.patch,
    )
    text = LlamaConfig(
        **language_sizes(shape), max_position_embeddings=CONTEXT_TOKENS, rms_norm_eps=1e-5
    )
    return LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=shape.image_tokens,
        tie_word_embeddings=False,
    )


def language_sizes(shape: Shape) -> dict[str, int]:
    """Return the sizes of the language model, as both kinds of config name them."""
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden // HEAD_WIDTH,
        "num_key_value_heads": shape.hidden // HEAD_WIDTH,
        "vocab_size": shape.vocabulary,
    }


def write_settings(folder: Path, config: LlavaConfig) -> None:
    """Write config.json, the tokenizer with a token for pictures, the image processor."""
    tokenizer = LlamaTokenizer.from_pretrained(ORIGINAL)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(folder)
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.architectures, config.dtype = ["LlavaForConditionalGeneration"], torch.float16
    config.save_pretrained(folder)
    write_pixels(folder, config)


def write_original_settings(folder: Path, shape: Shape) -> None:
    """Write config.json and the tokenizer; the tower is named "tower", beside the folder."""
    raw = json.loads((ORIGINAL / "config.json").read_text()) | language_sizes(shape)
    raw |= {"mm_hidden_size": shape.tower_hidden, "mm_vision_tower": "tower"}
    (folder / "config.json").write_text(json.dumps(raw | {"_name_or_path": "random"}))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(ORIGINAL / name, folder)


def write_pixels(folder: Path, config: LlavaConfig) -> None:
    """Write the image processor's settings, for pictures of the tower's size."""
    side = config.vision_config.image_size
    raw = json.loads((CLIP / "preprocessor_config.json").read_text())
    raw |= {"size": side, "crop_size": side}
    (folder / "preprocessor_config.json").write_text(json.dumps(raw))


# --- a model without files ----------------------------------------------------------------------


@dataclass(frozen=True)
class RandomSlice:
    """A weight that is made when it is read: what from_pretrained asks of a safetensors slice.

    So it is quantised tensor by tensor and passes through the RAM as from mapped files.
    """

    name: str
    shape: tuple[int, ...]

    def __getitem__(self, place: Any) -> torch.Tensor:
        return random_tensor(self.name, self.shape)[place]

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return "F16"


def processor_for(config: LlavaConfig) -> Any:
    """Return the processor of a model with this config."""
    with tempfile.TemporaryDirectory() as folder:
        write_settings(Path(folder), config)
        return build_processor(folder, config)


def as_llava(network: Any, processor: Any, name: str, quantization: str | None) -> Llava:
    """Join a network and its processor to what `load()` returns."""
    config = network.config
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    network.generation_config = GenerationConfig(**ends)
    network, style = network.eval().requires_grad_(False), prompt_style(processor)
    return Llava(network, processor, name=name, quantization=quantization, style=style)


def make_random(name: str, shape: Shape, quantization: str | None) -> Llava:
    """Return a model of this shape, on the freest GPU or on the CPU, stored as load() stores it."""
    config = build_config(shape)
    processor = processor_for(config)
    device, dtype = device_and_dtype(check_gpu(ask_torch=True))
    hush_bitsandbytes()
    weights = {each: RandomSlice(each, size) for each, size in expected_shapes(config).items()}
    with large_blocks_apart():
        network = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            device_map={"": device},
            quantization_config=settings(quantization, dtype),
        )
    check_modules(network, quantization)
    if quantization == "4bit":
        keep_scales(network)
    return as_llava(network, processor, name, quantization)


# --- a checkpoint on the disk -------------------------------------------------------------------


def write_checkpoint(folder: Path, shape: Shape, layout: str, shards: int) -> tuple[Path, int]:
    """Write a checkpoint in `layout` and `shards` files; return its folder and their bytes."""
    model, config = folder / "model", build_config(shape)
    model.mkdir(parents=True)
    weights, original = expected_shapes(config), layout == "original"
    if original:
        write_original_settings(model, shape)
        config.vision_config.save_pretrained(folder / "tower")
        write_pixels(folder / "tower", config)
        tower = {name: weights.pop(name) for name in list(weights) if name.startswith(TOWER)}
        tensors = {renamed(name, layout): random_tensor(name, tower[name]) for name in tower}
        of_float = {name: tensor.float() for name, tensor in tensors.items()}  # as OpenAI's is
        torch.save(of_float, folder / "tower" / "pytorch_model.bin")
    else:
        write_settings(model, config)
    stem, suffix = ("pytorch_model", "bin") if original else ("model", "safetensors")
    where, total = {}, 0
    for number, part in enumerate(split(weights, shards), start=1):
        several = f"-{number:05}-of-{shards:05}" if shards > 1 else ""
        file = model / f"{stem}{several}.{suffix}"
        tensors = {renamed(name, layout): random_tensor(name, size) for name, size in part}
        torch.save(tensors, file) if original else save_file(tensors, file, {"format": "pt"})
        where |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (model / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=1))
    return model, total


def renamed(name: str, layout: str) -> str:
    """Return the name that a weight has in a file of this layout."""
    found = ((pattern, new) for pattern, new in NAMES[layout] if re.search(pattern, name))
    pattern, new = next(found, ("^", ""))
    return re.sub(pattern, new, name)


def split(weights: dict[str, tuple[int, ...]], shards: int) -> list[list]:
    """Cut the weights into `shards` parts of about the same number of bytes."""
    sizes = [HALF * torch.Size(size).numel() for size in weights.values()]
    parts: list[list] = [[] for _ in range(shards)]
    before = 0
    for each, size in zip(weights.items(), sizes, strict=True):
        parts[min((before + size // 2) * shards // sum(sizes), shards - 1)].append(each)
        before += size
    return parts


def random_tensor(name: str, size: tuple[int, ...]) -> torch.Tensor:
    """Return float16 numbers that go with the name: a block of random ones, over and over.

    A new number for every place would take minutes for 13B, and no loader could tell.
    """
    count = torch.Size(size).numel()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    block = torch.randn(min(count, 2**20), generator=generator).mul_(0.02).half()
    return block.repeat(-(-count // len(block)))[:count].reshape(size).clone()
