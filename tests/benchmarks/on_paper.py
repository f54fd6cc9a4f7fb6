"""A LLaVA of true size that answers on paper: all code runs, no number is computed.

The model is on the meta device, where a tensor has a shape and no memory. `OnPaper` takes that for
a GPU: every tensor that transformers makes there gets a block of `caching_allocator.Blocks`, until
it is gone. What code decides by, such as ids, masks and positions, has its true values, and is
counted as well. What the processor makes before is in RAM, as on any machine.

Two things that transformers leaves to CUDA are written down here: that fused attention makes
nothing but its output, and the workspace of cuBLAS.

Not covered: the model and its quantised layers (`model_on_paper.py`), CUDA's context, kernels that
take memory behind torch's back, and time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from caching_allocator import MIB, Blocks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from llava_nb import prefix_cache
from llava_nb.llava import Llava
from llava_nb.sizes import GIB

WITH_VALUES = (torch.int64, torch.bool)
TOKEN = 7  # what a model without numbers says; it is not the end
CUBLAS = 8 * MIB + 128 * 1024  # torch's ":4096:2:16:8", below compute capability 9.0
FREE = 80 * GIB


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
        named = self._placed(given, named)
        if any(tensor.is_meta for tensor in given):
            arguments, named = tree_map(_to_meta, (arguments, named))
        before = {storage_of(tensor) for tensor in tensors_in((arguments, named))}
        made = function(*arguments, **named)
        if not given and isinstance(made, torch.Tensor) and made.dtype in WITH_VALUES:
            made = function(*arguments, **{**named, "device": "cpu"})  # such as arange's
        return tree_map(lambda each: self._seen(each, before), made)

    def _placed(self, given: list[torch.Tensor], named: dict[str, Any]) -> dict[str, Any]:
        """Keep numbers without values on the meta device, and those with values off it."""
        if named.get("device") is None:
            return named
        asked = named.get("dtype") or (given[0].dtype if given else None)
        place = torch.device(named["device"]).type
        if any(tensor.is_meta for tensor in given):
            place = "meta"
        elif given and asked in WITH_VALUES:
            place = "cpu"
        return {**named, "device": place}

    def _seen(self, made: Any, before: set[int]) -> Any:
        """Count a new tensor; one that shares the memory of another is not new."""
        if not isinstance(made, torch.Tensor) or storage_of(made) in before:
            return made
        if made.is_meta and made.dtype in WITH_VALUES:
            made = torch.full(made.shape, TOKEN).to(made.dtype)
        if made.is_meta or made.dtype in WITH_VALUES:
            self._count(made.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if storage.nbytes() and key not in self._held:
            gone = weakref.ref(storage, lambda _: self.blocks.give(self._held.pop(key)[1]))
            self._held[key] = (gone, self.blocks.take(storage.nbytes()))


def tensors_in(given: Any) -> list[torch.Tensor]:
    """Return all tensors in arguments of any kind."""
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


def storage_of(tensor: torch.Tensor) -> int:
    """Return what tells a tensor's memory from another's."""
    return tensor.untyped_storage()._cdata


def _to_meta(given: Any) -> Any:
    return given.to("meta") if isinstance(given, torch.Tensor) else given


def fused_attention(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """What attention makes on a GPU: its output."""
    return torch.empty_like(query)


@contextmanager
def attention_fused() -> Iterator[None]:
    """Have attention make what it makes on a GPU."""
    functional, replaced = torch.nn.functional, torch.nn.functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = fused_attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = replaced


@contextmanager
def answering(llava: Llava, blocks: Blocks) -> Iterator[Callable[..., Any]]:
    """Give what asks the model on paper: `ask(picture, question, tokens)`, exactly so many, of one
    answer or of several `rows` at once. Returns the answer, the first of several."""
    blocks.take(CUBLAS)
    asked_of = prefix_cache.free_and_total
    prefix_cache.free_and_total = lambda device: (FREE - blocks.reserved, FREE)

    def ask(picture: Any, question: str, tokens: int, rows: int = 1) -> Any:
        llava.model.generation_config.min_new_tokens = tokens
        limit = {"max_new_tokens": tokens}
        with OnPaper(blocks):
            if rows == 1:
                answer = llava.ask(picture, question, **limit)
            else:
                pictures = [picture] * rows
                answer = llava.ask_batch(pictures, question, batch_size=rows, **limit)[0]
        if answer.tokens != tokens:
            raise RuntimeError(f"{answer.tokens} tokens were made instead of {tokens}")
        return answer

    try:
        with attention_fused():
            yield ask
    finally:
        prefix_cache.free_and_total = asked_of
