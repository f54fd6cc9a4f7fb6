"""Keys and values with room for the whole answer, made once instead of at every token.

transformers' `DynamicCache` makes each layer's keys and values anew, one token longer, at every
step. That copies all of them for each token, and on a GPU it takes far more memory than they
are: blocks of the old length are too short for the next, torch keeps them, and after 1,024
tokens of a 13B more lies there unused than is in use. How long an answer may become is known
before it begins, so each layer gets a block of that length here and is filled from the front;
where that would be much, of a part of it, and of more when that is full.

The numbers are those of `DynamicCache`, to the last bit: attention is given the filled part.
Not covered: what is kept after the answer (`prefix_cache.py`), the buffers of compiled steps,
which have to be attended to as a whole (`fast.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Room:
    """For how many tokens of a sequence there is room at first, and at the most."""

    first: int
    most: int

    def for_tokens(self, tokens: int, held: int) -> int:
        """Return how long a block to make for so many tokens, of which some are held already.

        The prompt gets no room behind it: activations are at their most with it. It moves when
        they are gone. A block that is full is followed by one a quarter longer.
        """
        if not held:
            return tokens
        if tokens <= self.first:
            return self.first
        return max(tokens, min(tokens + tokens // 4, self.most))


class PreallocatedLayer(DynamicLayer):
    """The keys and values of one layer, (batch, heads, tokens, size of a head), at the front of
    blocks with some room behind."""

    def __init__(self, room: Room, held: KeysAndValues | None = None) -> None:
        super().__init__()
        self._room = room
        self._blocks: list[torch.Tensor] = []
        self._filled: KeysAndValues | None = None
        if held is not None:
            self.lazy_initialization(*held)
            self.keys, self.values = held

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> KeysAndValues:
        """Put keys and values behind those that are there; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        tokens = held + key_states.shape[-2]
        if not self._in_place(tokens, held, key_states):
            self._make_blocks(self._room.for_tokens(tokens, held), key_states, value_states)
        for block, states in zip(self._blocks, (key_states, value_states), strict=True):
            block.narrow(-2, held, tokens - held).copy_(states)
        self._filled = tuple(block.narrow(-2, 0, tokens) for block in self._blocks)
        self.keys, self.values = self._filled
        return self._filled

    def hand_over(self) -> KeysAndValues:
        """Return the keys and values, of which nothing is left here."""
        pair = (self.keys, self.values)
        self.keys = self.values = self._filled = None
        self._blocks = []
        self.is_initialized = False
        return pair

    def take(self, blocks: list[torch.Tensor]) -> None:
        """Use these blocks, one for keys and one for values, while they are long enough."""
        self._blocks = blocks

    def _in_place(self, tokens: int, held: int, states: torch.Tensor) -> bool:
        """Whether what is held is in the blocks, as this left it, and so many tokens fit."""
        if not self._blocks or self._blocks[0].shape[-2] < tokens:
            return False
        if not held:
            return self._blocks[0].shape[:2] == states.shape[:2]
        filled = self._filled or (None, None)
        return self.keys is filled[0] and self.values is filled[1]

    def _make_blocks(self, length: int, *states: torch.Tensor) -> None:
        """Make blocks and copy what is held; the old keys are gone before the new values come."""
        self._filled, self._blocks = None, []
        held = self.get_seq_length()
        blocks = []
        for name, new in zip(("keys", "values"), states, strict=True):
            batch, heads, _, width = new.shape
            blocks.append(new.new_empty(batch, heads, length, width))
            if held:
                blocks[-1][:, :, :held] = getattr(self, name)
                setattr(self, name, blocks[-1][:, :, :held])
        self._blocks = blocks


def cache_with_room(room: Room, layers: Iterable[KeysAndValues] = ()) -> DynamicCache:
    """Return a cache whose layers have this room.

    `layers` are keys and values to begin with, a pair for each layer, or none at all.
    """
    cache = DynamicCache()
    cache.layers = [PreallocatedLayer(room, pair) for pair in layers]
    cache.layer_class_to_replicate = partial(PreallocatedLayer, room)
    return cache


def cache_for_batch(network: Any, rows: int, room: Room) -> DynamicCache:
    """Return a cache whose layers have all their blocks, made before the model begins.

    Made while it reads, they would settle in what the activations of one layer leave behind, and
    the next layer's would need new memory; large as a batch's are, that is much.
    """
    text = network.config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    shape = (rows, getattr(text, "num_key_value_heads", None) or heads, room.first, width)
    cache = cache_with_room(room)
    for _ in range(text.num_hidden_layers):
        layer = cache.layer_class_to_replicate()
        layer.take([torch.empty(shape, dtype=network.dtype, device=network.device) for _ in "kv"])
        cache.layers.append(layer)
    return cache
