"""What a model has read already, kept so that it is not read again.

Reading a prompt leaves keys and values in every layer, one for each token. A picture takes
576 tokens or more and a question ten, so whoever asks twice about a picture would wait
mostly for what the model knows. Here the keys and values stay, by the tokens and the
picture that they came from, and the next prompt that begins in the same way goes on
from there.

Nothing is held twice for long: a prefix that is gone on from as a whole is handed over,
layer by layer, and comes back when the answer is there. The most recently used stay, up to
a number of bytes. Not covered: generating (`llava.py`),
what a conversation says (`chat.py`), several prompts at once (`batch.py` keeps nothing).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlavaModel

from .preallocated import KeysAndValues, Room, cache_with_room
from .sizes import GIB
from .vram.free import free_and_total

if TYPE_CHECKING:
    from transformers import DynamicCache

LIMIT_BYTES = 2 * GIB  # of all prefixes together
SHARE_OF_FREE = 0.25  # and no more of what is free than this
HEADROOM_BYTES = GIB // 2  # what one answer takes beside its keys and values
# So little is kept whatever is free: finding that out takes longer than it is worth.
SMALL_BYTES = GIB // 16

# What models and `generate` call the keys and values that they are given: "cache" since
# transformers 5.24, which warns of the older name.
_ARGUMENTS = inspect.signature(LlavaModel.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _ARGUMENTS else "past_key_values"


@dataclass(frozen=True, eq=False)
class Prefix:
    """The keys and values of some tokens, one pair a layer.

    `ids` is (tokens,), on the CPU. `picture` is the fingerprint of the picture in it, None
    without one; the picture's last token stands before `picture_end`. Keys and values are
    (1, heads, tokens, size of a head).
    """

    ids: torch.Tensor
    picture: bytes | None
    picture_end: int
    layers: list[KeysAndValues]

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

    def first(self, tokens: int, room: Room) -> DynamicCache:
        """Return a cache of its own with the first `tokens` of this, and this room."""
        return cache_with_room(room, [(k[:, :, :tokens], v[:, :, :tokens]) for k, v in self.layers])

    def handed_over(self, room: Room) -> DynamicCache:
        """Return a cache with all of this, of which nothing is left here."""
        return cache_with_room(room, (self.layers.pop(0) for _ in range(len(self.layers))))


def take_layers(cache: DynamicCache, tokens: int) -> list[KeysAndValues]:
    """Return the first `tokens` of a cache that is not used again.

    The rest of each layer is let go of before the next is copied.
    """
    return [
        tuple(_alone(tensor[:, :, :tokens]) for tensor in layer.hand_over())
        for layer in cache.layers
    ]


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, or a copy where it would keep more than itself in memory."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


class PrefixCache:
    """The prefixes of one model, the least recently used first.

    `limit_bytes` is the most that they take together; 0 keeps none.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._prefixes: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Any:
        return iter(list(self._prefixes))

    @property
    def nbytes(self) -> int:
        """What all of them take in memory."""
        return sum(prefix.nbytes for prefix in self)

    def picture_tokens(self, picture: bytes, image_token: int) -> int | None:
        """Return as how many tokens a picture was read, None if it is not remembered."""
        for prefix in self:
            if prefix.picture == picture:
                return int((prefix.ids == image_token).sum())
        return None

    def start(
        self, ids: torch.Tensor, picture: bytes | None, picture_end: int, room: Room, *, whole: bool
    ) -> tuple[DynamicCache, int]:
        """Return a cache to go on from, and how many of `ids` are in it; often none.

        The cache has `room`, for what it begins with too.

        `whole` takes all that is shared, as a conversation does. Without it that is the
        picture and what stands before it: a question then gives the same numbers to the
        last bit, whatever was asked before. At least one token is left to read.
        """
        found, most = None, 0
        for prefix in self:
            if prefix.picture != picture:
                continue
            shared = min(prefix.shared_with(ids), len(ids) - 1)
            shared = shared if whole else min(shared, picture_end)
            if shared >= picture_end and shared > most:
                found, most = prefix, shared
        if found is None:
            return cache_with_room(room), 0
        self._prefixes.remove(found)
        if most == len(found.ids):
            return found.handed_over(room), most
        self._prefixes.append(found)  # now the most recently used
        return found.first(most, room), most

    def keep(self, prefix: Prefix, device: Any) -> None:
        """Remember a prefix as far as there is room, in place of those that it begins with.

        If another begins with it, that one will do.
        """
        if any(prefix.begins(kept) for kept in self):
            return
        self._prefixes = [kept for kept in self if not kept.begins(prefix)]
        self._prefixes.append(prefix)
        limit = self.limit_bytes
        if self.nbytes > SMALL_BYTES:
            free = free_bytes(device)
            if free is not None:
                limit = min(limit, max(int(SHARE_OF_FREE * (free + self.nbytes)), SMALL_BYTES))
        while self._prefixes and self.nbytes > limit:
            self._prefixes.pop(0)

    def make_room(self, tokens: int, device: Any) -> None:
        """Forget the least recently used until `tokens` more fit in what is free.

        A small rest stays: it would make no room to speak of.
        """
        while self.nbytes > SMALL_BYTES:
            newest = self._prefixes[-1]
            needed = tokens * newest.nbytes // len(newest.ids) + HEADROOM_BYTES
            free = free_bytes(device)
            if free is None or free >= needed:
                return
            self._prefixes.pop(0)

    def clear(self) -> None:
        """Forget everything."""
        self._prefixes.clear()


def free_bytes(device: Any) -> int | None:
    """Return what is free where the model is, with what torch keeps there unused."""
    free, _ = free_and_total(device)
    if free is not None and torch.device(device).type == "cuda":
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free
