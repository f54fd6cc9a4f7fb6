"""What LLaVA-1.5 takes of a GPU at its true sizes, counted without one, beside the estimate.

    python tests/benchmarks/vram_on_paper.py [--models 7b 13b] [--stored 4bit none] [--rows 1]
                                             [--quick] [--write]

`Llava.ask` and transformers run as they are, on tensors without numbers on the meta device, and
every tensor gets a block by the rules of torch's allocator. What comes out is "allocated", what
tensors take at the peak, and "reserved", what torch then has of the GPU. CUDA's context is not in
either. So this says whether the formulas agree with the code, and where memory goes unused. It is
not a measurement of a GPU: that is `gpu.py`. 1,024 tokens of a 13B take five minutes of a core.
--rows asks about so many pictures at once. Returns 1 if the estimate is more than 5 % from what is
allocated.
"""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import measure
import torch
from checkpoints import SHAPES, as_llava, build_config, processor_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import LlavaForConditionalGeneration

from llava_nb import estimate_vram, example_picture, open_image
from llava_nb.sizes import CONTEXT, GIB, NF4_BLOCK, NF4_SCALES_PER_FLOAT
from llava_nb.vram import report

# torch's native allocator with its default settings: c10/cuda/CUDACachingAllocator.cpp
# (kMinBlockSize, kSmallSize, kSmallBuffer, kLargeBuffer, kMinLargeAlloc, kRoundLarge).
MIB, SMALLEST = 2**20, 512
SMALL, SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT = MIB, 2 * MIB, 20 * MIB, 10 * MIB
STORED, TOKENS, APART = {"4bit": "4bit", "none": None}, (64, 1024), 5.0
WITH_VALUES = (torch.int64, torch.bool)  # what code decides by, such as ids, has its true values
TOKEN = 7  # what a model without numbers says; it is not the end
CUBLAS = 8 * MIB + 128 * 1024  # torch's ":4096:2:16:8", below compute capability 9.0
FREE = 80 * GIB
FUSED_TOKENS = 64  # up to so many, bitsandbytes' kernels on a T4 unpack nothing


@dataclass(eq=False)
class Block:
    """A stretch of a segment: its place, its bytes, its neighbours, whether a tensor has it."""

    at: int
    size: int
    small: bool
    used: bool = False
    before: Block | None = field(default=None, repr=False)
    behind: Block | None = field(default=None, repr=False)


class Blocks:
    """A GPU's memory as torch sees it: bytes allocated and reserved, now and at the peak.

    The smallest free block that is long enough is taken; what is left of it becomes a free block,
    from 512 bytes on in small segments and above 1 MiB in large ones; free neighbours are joined.
    """

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._end = 0
        self._at: dict[int, Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # size, place

    def take(self, count: int) -> Block:
        """Return a block for a tensor of `count` bytes."""
        size = max(-(-count // SMALLEST), 1) * SMALLEST
        pool = self._free[size <= SMALL]
        index = bisect_left(pool, (size, -1))
        block = self._segment(size) if index == len(pool) else self._at[pool.pop(index)[1]]
        left = block.size - size
        if left >= SMALLEST if block.small else left > SMALL:
            rest = Block(block.at + size, left, block.small, before=block, behind=block.behind)
            if rest.behind is not None:
                rest.behind.before = rest
            block.behind, block.size = rest, size
            self._at[rest.at] = rest
            insort(self._free[rest.small], (left, rest.at))
        block.used = True
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def give(self, block: Block) -> None:
        """Take a block back, and join it with its free neighbours."""
        block.used = False
        self.allocated -= block.size
        for other in (block.before, block.behind):
            if other is not None and not other.used:
                self._free[other.small].remove((other.size, other.at))
                first, second = (other, block) if other is block.before else (block, other)
                first.size, first.behind = first.size + second.size, second.behind
                if first.behind is not None:
                    first.behind.before = first
                del self._at[second.at]
                block = first
        insort(self._free[block.small], (block.size, block.at))

    def _segment(self, size: int) -> Block:
        small = size <= SMALL
        large = LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // (2 * MIB)) * 2 * MIB
        block = Block(self._end, SMALL_SEGMENT if small else large, small)
        self._end += block.size + 1  # so that no segment is another's neighbour
        self._at[block.at] = block
        self.reserved += block.size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block


class OnPaper(TorchDispatchMode):
    """Keeps account, in `blocks`, of every tensor that is made while this is entered."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.blocks = blocks
        self._held: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple = (), named: dict | None = None
    ) -> Any:
        named = dict(named or {})
        with self:  # in inference mode operations arrive whole that are made of others
            parts = function.decompose(*arguments, **named)
        if parts is not NotImplemented:
            return parts
        given = tensors_in((arguments, named))
        on_meta = any(tensor.is_meta for tensor in given)
        if named.get("device") is not None:  # numbers without values stay on the meta device
            asked = named.get("dtype") or (given[0].dtype if given else None)
            place = torch.device(named["device"]).type
            with_values = given and asked in WITH_VALUES
            named["device"] = "meta" if on_meta else "cpu" if with_values else place
        if on_meta:
            arguments, named = tree_map_only(
                torch.Tensor, lambda tensor: tensor.to("meta"), (arguments, named)
            )
        before = {tensor.untyped_storage()._cdata for tensor in tensors_in((arguments, named))}
        made = function(*arguments, **named)
        if not given and isinstance(made, torch.Tensor) and made.dtype in WITH_VALUES:
            made = function(*arguments, **{**named, "device": "cpu"})  # such as arange's
        return tree_map_only(torch.Tensor, lambda tensor: self._seen(tensor, before), made)

    def _seen(self, made: torch.Tensor, before: set[int]) -> torch.Tensor:
        """Count a new tensor; one that shares the memory of another is not new."""
        if made.untyped_storage()._cdata in before:
            return made
        if made.is_meta and made.dtype in WITH_VALUES:
            made = torch.full(made.shape, TOKEN).to(made.dtype)
        storage = made.untyped_storage()
        if (made.is_meta or made.dtype in WITH_VALUES) and storage.nbytes():
            key = storage._cdata
            if key not in self._held:
                gone = weakref.ref(storage, lambda _: self.blocks.give(self._held.pop(key)[1]))
                self._held[key] = (gone, self.blocks.take(storage.nbytes()))
        return made


def tensors_in(given: Any) -> list[torch.Tensor]:
    """Return all tensors in arguments of any kind."""
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


class Linear4bit(torch.nn.Module):
    """A layer in NF4: its blocks, and what bitsandbytes holds beside a product with it.

    After bitsandbytes' `quantize_4bit` and `_dequant_linear_fallback`.
    """

    def __init__(self, rows: int, columns: int, blocks: Blocks) -> None:
        super().__init__()
        self.rows, self.columns, weights = rows, columns, rows * columns
        self.scales = weights // NF4_BLOCK
        half, scales = blocks.take(2 * weights), blocks.take(4 * self.scales)
        outer = -(-self.scales // NF4_SCALES_PER_FLOAT)
        # Packed weights, code books, offset, then the scales in a byte each and their scales.
        for kept in (weights // 2, 4 * 16, 4, 4 * 256, 4 * outer, self.scales):
            blocks.take(kept)
        blocks.give(scales)
        blocks.give(half)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the output; the unpacked weights are held until it is there."""
        held = []
        if states.numel() // self.columns > FUSED_TOKENS:
            of_float = {"dtype": torch.float32, "device": "meta"}
            held = [torch.empty(self.scales, **of_float) for _ in range(2)]
            held.append(states.new_empty(self.rows, self.columns))
        made = states.new_empty(*states.shape[:-1], self.rows)
        del held
        return made


def take_weights(network: Any, stored: str | None, blocks: Blocks) -> None:
    """Put the weights of a network on the meta device into blocks, the linear layers of its
    language model in 4 bits if `stored` says so."""
    modules, weights = dict(network.named_modules()), dict(network.named_parameters())
    owners = {each: each.rpartition(".")[0] for each in weights if each.endswith(".weight")}
    quantised = {
        each: owner
        for each, owner in owners.items()
        if stored and "language_model" in each and isinstance(modules[owner], torch.nn.Linear)
    }
    # transformers first asks for all at once and gives it back (`caching_allocator_warmup`).
    sizes = (weight.numel() * (0.5 if each in quantised else 2) for each, weight in weights.items())
    blocks.give(blocks.take(int(sum(sizes))))

    def place(each: str) -> list[tuple[bool, int, str]]:  # by name, numbers by their value
        parts = each.split(".")
        return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]

    for each in sorted(weights, key=place):
        if each in quantised:
            network.set_submodule(quantised[each], Linear4bit(*weights[each].shape, blocks))
        else:
            blocks.take(weights[each].nbytes)


def attention_fused() -> Any:
    """Have attention make what it makes on a GPU, its output alone, while this is entered."""
    return mock.patch.object(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *_, **__: torch.empty_like(query),
    )


def count(name: str, stored: str, tokens: Sequence[int], rows: int) -> Iterator[tuple]:
    """Load on paper and ask; yield a label, and bytes foretold, allocated and reserved."""
    blocks, config, picture = Blocks(), build_config(SHAPES[name]), open_image(example_picture())
    processor = processor_for(config)
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config).half()
    take_weights(network, STORED[stored], blocks)
    llava = as_llava(network, processor, name, STORED[stored])
    weights = estimate_vram(llava).weights_bytes
    yield f"{name} {stored}, loaded", weights, blocks.allocated, blocks.peak_reserved
    blocks.take(CUBLAS)
    memory = mock.Mock(side_effect=lambda device: (FREE - blocks.reserved, FREE))
    free = mock.patch.object(report, "free_and_total", memory)
    for number in tokens:
        blocks.peak_allocated, blocks.peak_reserved = blocks.allocated, blocks.reserved
        with measure.exactly(llava, number), attention_fused(), free, OnPaper(blocks):
            answer = llava.ask_batch(
                [picture] * rows, "Describe this.", batch_size=rows, max_new_tokens=number
            )[0]
        if answer.tokens != number:
            raise RuntimeError(f"{answer.tokens} tokens were made instead of {number}")
        question = answer.prompt_tokens - SHAPES[name].image_tokens
        asked = {"prompt_tokens": question, "batch_size": rows, "max_new_tokens": number}
        told = estimate_vram(llava, **asked)
        foretold = told.total_bytes - told.parts[CONTEXT]
        label = f"{name} {stored}, {rows} x {number:,} tokens"
        yield label, foretold, blocks.peak_allocated, blocks.peak_reserved


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, and return 1 if a bar is missed."""
    lists = {"--models": [*SHAPES], "--stored": [*STORED]}
    options = measure.parse(__doc__, arguments, lists, rows=(1, 2))
    counts = [
        each
        for name in options.models
        for stored in options.stored
        for each in count(name, stored, (4,) if options.quick else TOKENS, options.rows)
    ]
    rows = [
        (label, *(f"{each / GIB:.3f}" for each in sizes), f"{(sizes[2] - sizes[1]) / GIB:.3f}")
        for label, *sizes in counts
    ]
    return measure.finish(
        options,
        "vram_on_paper" if options.rows == 1 else f"vram_on_paper_{options.rows}_rows",
        "VRAM of LLaVA-1.5, foretold and counted on paper",
        "No GPU was used: the code runs on tensors without numbers, and their blocks are those of "
        "torch's allocator, by its rules. Memory in GiB, without CUDA's context.",
        measure.table(("", "foretold", "allocated", "reserved", "unused"), rows),
        verdicts=[
            measure.at_most(
                f"{label}: estimate from what is allocated, %", abs(100 * (told / held - 1)), APART
            )
            for label, told, held, _ in counts
        ],
        counts=counts,
    )


if __name__ == "__main__":
    sys.exit(main())
