"""A LLaVA of any shape with random weights, made where it computes, without a file of weights.

transformers is handed weights that are made when they are asked for, one at a time, by the way
that `load()` takes for the original layout. So they are quantised tensor by tensor and pass through
the RAM as they do from mapped files, and 13B needs no 27 GB of disk. The numbers are those of
`checkpoints_to_measure.py`.

Not covered: sense, for such a model answers gibberish; how long reading a disk takes, and what of
the RAM it needs (`load_memory.py`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from checkpoint_settings import build_config, write_transformers_settings
from checkpoints_to_measure import SMALL, random_tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_nb.llava import Llava
from llava_nb.loading import device_and_dtype
from llava_nb.original import expected_shapes
from llava_nb.processor import build_processor, prompt_style
from llava_nb.quantise import check_modules, hush_bitsandbytes, settings
from llava_nb.scales import keep_scales
from llava_nb.sizes import Shape
from llava_nb.vram.free import large_blocks_apart

SCALE, BLOCK = 8, 64  # 4-bit kernels go by blocks


@dataclass(frozen=True)
class RandomSlice:
    """A weight that is made when it is read: what from_pretrained asks of a safetensors slice."""

    name: str
    shape: tuple[int, ...]

    def __getitem__(self, place: Any) -> torch.Tensor:
        return random_tensor(self.name, self.shape)[place]

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return "F16"


def scaled_down(shape: Shape) -> Shape:
    """Return an eighth of the width and of the layers, with a small tower and few words."""
    return replace(
        SMALL,
        hidden=shape.hidden // SCALE,
        layers=shape.layers // SCALE,
        intermediate=BLOCK * round(shape.intermediate / SCALE / BLOCK),
    )


def make_random(name: str, shape: Shape, quantization: str | None) -> Llava:
    """Return a model of this shape, on the freest GPU or on the CPU, stored as load() stores it."""
    config = build_config(shape)
    with tempfile.TemporaryDirectory() as folder:
        write_transformers_settings(Path(folder), config)
        processor = build_processor(folder, config)
    device, dtype = device_and_dtype()
    hush_bitsandbytes()
    with large_blocks_apart():
        network = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict={each: RandomSlice(each, size) for each, size in _weights(config)},
            dtype=dtype,
            device_map={"": device},
            quantization_config=settings(quantization, dtype),
        )
    check_modules(network, quantization)
    if quantization == "4bit":
        keep_scales(network)
    network.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    return Llava(
        network.eval().requires_grad_(False),
        processor,
        name=name,
        quantization=quantization,
        style=prompt_style(processor),
    )


def _weights(config: Any) -> list[tuple[str, tuple[int, ...]]]:
    return list(expected_shapes(config).items())
