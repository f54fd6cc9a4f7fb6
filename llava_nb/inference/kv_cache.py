"""Keys and values of what a model has read: written in place, and kept between questions.

Both give transformers' own numbers, to the last bit.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, LlavaModel
from transformers.cache_utils import DynamicLayer

KeysAndValues = tuple[torch.Tensor, torch.Tensor]

LIMIT_BYTES = 2**31  # of all prefixes together
HEADROOM_BYTES = 2**29  # what one answer takes beside its keys and values
# So little is kept whatever is free: finding that out takes longer than it is worth.
SMALL_BYTES = 2**26

# What models and `generate` call the keys and values that they are given: "cache" since
# transformers 5.24, which warns of the older name.
_ARGUMENTS = inspect.signature(LlavaModel.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _ARGUMENTS else "past_key_values"


@dataclass(frozen=True)
class Room:
    """For how many tokens of a sequence there is room at first, and at the most."""

    first: int
    most: int


class PreallocatedLayer(DynamicLayer):
    """The keys and values of one layer, at the front of blocks with room for the answer.

    transformers' own layer makes them anew, one token longer, at every step: it copies all of them
    for each token, and on a GPU leaves blocks that are too short for the next; after 1,024 tokens
    of a 13B more lies there unused than is in use. Attention is given the filled part, so the
    numbers are the same. `held` is what it begins with, `blocks` are used while they are long
    enough: one of each for keys and one for values, (batch, heads, tokens, size of a head).
    """

    def __init__(
        self, room: Room, held: KeysAndValues | None = None, blocks: Sequence[torch.Tensor] = ()
    ) -> None:
        super().__init__()
        self._room, self._blocks = room, list(blocks)
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
        if not self._fits(tokens, held, key_states):
            self._make_blocks(tokens, held, key_states, value_states)
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

    def _fits(self, tokens: int, held: int, states: torch.Tensor) -> bool:
        """Whether what is held is in the blocks, as this left it, and so many tokens fit."""
        if not self._blocks or self._blocks[0].shape[-2] < tokens:
            return False
        if not held:
            return self._blocks[0].shape[:2] == states.shape[:2]
        keys, values = self._filled or (None, None)
        return self.keys is keys and self.values is values

    def _make_blocks(self, tokens: int, held: int, *states: torch.Tensor) -> None:
        """Make blocks and copy what is held; the old keys are gone before the new values come."""
        # No room behind the prompt: activations are at their most with it. It moves when they
        # are gone.
        length = tokens
        if held and tokens <= self._room.first:
            length = self._room.first
        elif held:
            length = max(tokens, min(tokens + tokens // 4, self._room.most))
        self._filled, self._blocks, blocks = None, [], []
        for name, new in zip(("keys", "values"), states, strict=True):
            batch, heads, _, width = new.shape
            blocks.append(new.new_empty(batch, heads, length, width))
            if held:
                blocks[-1][:, :, :held] = getattr(self, name)
                setattr(self, name, blocks[-1][:, :, :held])
        self._blocks = blocks


def cache_with_room(room: Room, layers: Iterable[KeysAndValues] = ()) -> DynamicCache:
    """Return a cache whose layers have this room, and each its pair of `layers` to begin with."""
    cache = DynamicCache()
    cache.layers = [PreallocatedLayer(room, pair) for pair in layers]
    cache.layer_class_to_replicate = partial(PreallocatedLayer, room)
    return cache


def cache_for_batch(network: Any, rows: int, room: Room) -> DynamicCache:
    """Return a cache whose layers have all their blocks, made before the model begins."""
    # Made while it reads, they would settle in what the activations of one layer leave behind, and
    # the next layer's would need new memory; large as a batch's are, that is much.
    text = network.config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    shape = (rows, getattr(text, "num_key_value_heads", None) or heads, room.first, width)
    block = partial(torch.empty, shape, dtype=network.dtype, device=network.device)
    cache, layers = DynamicCache(), range(text.num_hidden_layers)
    cache.layers = [PreallocatedLayer(room, blocks=(block(), block())) for _ in layers]
    return cache


def take_layers(cache: DynamicCache, tokens: int) -> list[KeysAndValues]:
    """Return the first `tokens` of a cache that is not used again."""

    def alone(tensor: torch.Tensor) -> torch.Tensor:
        """A copy where the tensor would keep more than itself in memory."""
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

    return [  # the rest of each layer is let go of before the next is copied
        tuple(alone(tensor[:, :, :tokens]) for tensor in layer.hand_over())
        for layer in cache.layers
    ]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The keys and values of the tokens that a prompt begins with."""

    ids: torch.Tensor  # (tokens,), on the CPU
    picture: bytes | None  # the fingerprint of the picture in it
    picture_end: int  # the picture's last token stands before it
    layers: list[KeysAndValues]  # each (1, heads, tokens, size of a head)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def shared_with(self, ids: torch.Tensor) -> int:
        """Return how many tokens are the same from the start on."""
        most = min(len(self.ids), len(ids))
        return int((self.ids[:most] == ids[:most]).long().cumprod(0).sum())

    def begins(self, other: Prefix) -> bool:
        """Whether `other` starts with all of this."""
        return self.picture == other.picture and self.shared_with(other.ids) == len(self.ids)


class PrefixCache:
    """What one model has read and remembers, the least recently used first.

    A picture takes 576 tokens or more and a question ten, so whoever asks twice about a picture
    would wait mostly for what the model knows. A prefix that is gone on from as a whole is handed
    over, so that nothing is held twice, and comes back with the answer. `limit_bytes` is the most
    that all take together; 0 keeps none. `free_vram()` may clear it from another thread.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._prefixes: list[Prefix] = []
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(list(self._prefixes))

    @property
    def nbytes(self) -> int:
        """What all of them take in memory."""
        return sum(prefix.nbytes for prefix in self)

    def picture_tokens(self, picture: bytes | None, image_token: int) -> int | None:
        """Return as how many tokens a picture was read, None if it is not remembered."""
        for prefix in self:
            if prefix.picture == picture:
                return int((prefix.ids == image_token).sum())
        return None

    def start(
        self, ids: torch.Tensor, picture: bytes | None, picture_end: int, room: Room, *, whole: bool
    ) -> tuple[DynamicCache, int]:
        """Return a cache to go on from, with this room, and how many of `ids` are in it.

        `whole` takes all that is shared, as a conversation does. Without it that is the picture and
        what stands before it: a question then gives the same numbers to the last bit, whatever was
        asked before. At least one token is left to read.
        """
        limit = len(ids) - 1 if whole else min(picture_end, len(ids) - 1)
        with self._lock:
            found, most = None, 0
            for prefix in self._prefixes:
                is_same = prefix.picture == picture
                shared = min(prefix.shared_with(ids), limit) if is_same else 0
                if shared >= max(picture_end, most + 1):
                    found, most = prefix, shared
            if found is None:
                return cache_with_room(room), 0
            self._prefixes.remove(found)
            layers = found.layers
            if most == len(found.ids):
                return cache_with_room(room, (layers.pop(0) for _ in range(len(layers)))), most
            self._prefixes.append(found)  # now the most recently used
            layers = [(keys[:, :, :most], values[:, :, :most]) for keys, values in layers]
            return cache_with_room(room, layers), most

    def keep(self, prefix: Prefix) -> None:
        """Remember a prefix, up to the limit, and none that it begins with."""
        with self._lock:
            if any(prefix.begins(kept) for kept in self._prefixes):
                return
            kept = [each for each in self._prefixes if not each.begins(prefix)]
            self._prefixes = [*kept, prefix]
            while self._prefixes and self.nbytes > self.limit_bytes:
                self._prefixes.pop(0)

    def make_room(self, tokens: int, free_bytes: Callable[[], int | None]) -> None:
        """Forget the least recently used until `tokens` more fit in what is free."""
        with self._lock:
            while self.nbytes > SMALL_BYTES:
                newest = self._prefixes[-1]
                needed = tokens * newest.nbytes // len(newest.ids) + HEADROOM_BYTES
                free = free_bytes()
                if free is None or free >= needed:
                    return
                self._prefixes.pop(0)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._prefixes.clear()
