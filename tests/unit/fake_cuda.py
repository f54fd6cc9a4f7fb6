"""A GPU of a few lines in place of torch.cuda: what is allocated, its peak, what is reserved."""

from __future__ import annotations

import torch

from llava_nb.sizes import GIB


class FakeCuda:
    """Counts as torch does. `others` is what the driver and other processes hold."""

    def __init__(self, total=16 * GIB, gpus=1):
        self.total, self.gpus, self.others = total, gpus, 0
        self.allocated, self.peak, self.reserved = [0] * gpus, [0] * gpus, [0] * gpus

    def allocate(self, size, gpu=0):
        self.allocated[gpu] += size
        self.peak[gpu] = max(self.peak[gpu], self.allocated[gpu])
        self.reserved[gpu] = max(self.reserved[gpu], self.allocated[gpu])

    def free(self, size, gpu=0):
        self.allocated[gpu] -= size

    def empty_cache(self):
        self.reserved = list(self.allocated)

    def reset(self, gpu):
        self.peak[gpu] = self.allocated[gpu]

    def mem_get_info(self, device=None):
        return self.total - self.others - self.reserved[0], self.total


def number(gpu):
    """The number of a GPU that is given as torch takes it."""
    return gpu if isinstance(gpu, int) else torch.device(gpu).index or 0


def install(monkeypatch, fake):
    """Put the fake in the place of torch.cuda for one test."""
    stand_ins = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: fake.gpus,
        "current_device": lambda: 0,
        "get_device_name": lambda device: "Tesla T4",
        "memory_allocated": lambda gpu: fake.allocated[number(gpu)],
        "max_memory_allocated": lambda gpu: fake.peak[number(gpu)],
        "memory_reserved": lambda gpu: fake.reserved[number(gpu)],
        "reset_peak_memory_stats": fake.reset,
        "mem_get_info": fake.mem_get_info,
        "empty_cache": fake.empty_cache,
        "ipc_collect": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return fake
