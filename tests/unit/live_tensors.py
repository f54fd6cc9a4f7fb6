"""The bytes of tensors that are alive while something runs, counted also on the meta device.

On the meta device a model of true size runs in a second and takes no memory, and every tensor
still has its size: so a formula for activations can be held against transformers' own code.
"""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the storage of every tensor that an operation makes, until it is gone."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key, size):
        del self._seen[key]
        self.now -= size
