"""A LLaVA of any shape on the meta device, its weights in blocks, for `on_paper.py` to run.

What bitsandbytes leaves to CUDA is written down here, after its sources: what a quantised layer
keeps (`quantize_4bit`, `int8_vectorwise_quant`), and what a product with it allocates on the way
(`_dequant_linear_fallback`, `int8_mixed_scaled_mm` without outliers).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from caching_allocator import Blocks
from checkpoint_settings import build_config, write_transformers_settings
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_nb.llava import Llava
from llava_nb.processor import build_processor, prompt_style
from llava_nb.sizes import NF4_BLOCK, NF4_SCALES_PER_FLOAT, Shape

FUSED_TOKENS = 64  # up to so many, bitsandbytes' kernels on a T4 unpack nothing


class Linear(torch.nn.Module):
    """A quantised layer: its blocks, and what a product with it allocates on the way."""

    def __init__(self, rows: int, columns: int, stored: str, blocks: Blocks) -> None:
        super().__init__()
        self.rows, self.columns, self.stored = rows, columns, stored
        self.scales = rows * columns // NF4_BLOCK
        self._quantise(blocks)

    def _quantise(self, blocks: Blocks) -> None:
        """Take what the layer keeps; its weights come in half precision and go again."""
        weights = self.rows * self.columns
        half = blocks.take(2 * weights)
        if self.stored == "8bit":
            blocks.take(4 * self.rows)
            blocks.take(weights)
        else:
            scales = blocks.take(4 * self.scales)
            outer = -(-self.scales // NF4_SCALES_PER_FLOAT)
            # Packed weights, code books, offset, then the scales in a byte each and their scales.
            for kept in (weights // 2, 4 * 16, 4, 4 * 256, 4 * outer, self.scales):
                blocks.take(kept)
            blocks.give(scales)
        blocks.give(half)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the output, with what CUDA's code holds beside it meanwhile."""
        tokens = states.numel() // self.columns
        if self.stored == "8bit":
            return self._in_8_bits(states, tokens)
        if tokens <= FUSED_TOKENS:
            return states.new_empty(*states.shape[:-1], self.rows)
        of_float = {"dtype": torch.float32, "device": "meta"}
        held = [torch.empty(self.scales, **of_float) for _ in range(2)]
        held.append(states.new_empty(self.rows, self.columns))
        return states.new_empty(*states.shape[:-1], self.rows)

    def _in_8_bits(self, states: torch.Tensor, tokens: int) -> torch.Tensor:
        quantised = torch.empty_like(states, dtype=torch.int8)
        outliers = torch.empty_like(states).to(torch.int8)  # magnitudes, then a byte each
        del outliers
        product = states.new_empty(tokens, self.rows, dtype=torch.int32)
        made = states.new_empty(*states.shape[:-1], self.rows)
        del product, quantised
        return made


def load_on_paper(name: str, shape: Shape, stored: str | None, blocks: Blocks) -> Llava:
    """Return a model of this shape, half precision where it is not quantised, with its weights in
    blocks; they come in the order and in the way of transformers' loading, one at a time."""
    config = build_config(shape)
    with tempfile.TemporaryDirectory() as folder:
        write_transformers_settings(Path(folder), config)
        processor = build_processor(folder, config)
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config).half()
    take_weights(network, stored, blocks)
    network.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    network = network.eval().requires_grad_(False)
    return Llava(network, processor, name=name, quantization=stored, style=prompt_style(processor))


def take_weights(network: Any, stored: str | None, blocks: Blocks) -> None:
    """Put the weights of a network on the meta device into blocks, the linear layers of its
    language model quantised."""
    modules = dict(network.named_modules())
    weights = dict(network.named_parameters())
    quantised = {
        name
        for name in weights
        if stored
        and "language_model" in name
        and name.endswith(".weight")
        and isinstance(modules[_owner(name)], torch.nn.Linear)
    }
    # transformers first asks for all at once and gives it back (`caching_allocator_warmup`).
    share = {"4bit": 0.5, "8bit": 1, None: 2}[stored]
    warm_up = sum(int((share if n in quantised else 2) * w.numel()) for n, w in weights.items())
    blocks.give(blocks.take(warm_up))
    for name, weight in sorted(weights.items(), key=lambda each: _place(each[0])):
        if name in quantised:
            network.set_submodule(_owner(name), Linear(*weight.shape, stored, blocks))
        else:
            blocks.take(weight.nbytes)


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _place(parameter: str) -> list[tuple[bool, int, str]]:
    """The order in which weights are loaded: by name, numbers by their value."""
    parts = parameter.split(".")
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
