"""How every stage of the embedded model's training takes a step.

Muon for the matrices inside the layers and AdamW for everything else, both from
torch, under one cosine schedule with a short warm-up. Muon (Jordan and others,
2024) needs about half of AdamW's steps here; see the model card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

Precision = Callable[[torch.device], AbstractContextManager]


def full_precision(device: torch.device) -> AbstractContextManager:
    """Compute in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=False)


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """Multiply matrices in bfloat16, keep weights and sums in float32.

    Half the time on a CPU that multiplies bfloat16 (AVX512-BF16, AMX); on others, slower.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16)


def optimisers(
    modules: Iterable[nn.Module], learning_rate: float, weight_decay: float = 0.01
) -> list[torch.optim.Optimizer]:
    """Return the optimisers that share the trainable parameters of `modules`.

    Needs torch 2.9 or newer, the first to bring Muon.
    """
    matrices, others = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                inside = parameter.ndim == 2 and "layers." in name
                (matrices if inside else others).append(parameter)
    found = []
    if matrices:
        found.append(
            torch.optim.Muon(
                matrices,
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if others:
        found.append(torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98)))
    return found


class Schedule:
    """Warm up over the first steps, then follow a cosine down to nothing."""

    def __init__(self, optimisers: list[torch.optim.Optimizer], steps: int) -> None:
        self.optimisers = optimisers
        self.steps, self.taken = steps, 0
        self.warm_up = min(100, max(1, steps // 10))
        self.peaks = [group["lr"] for each in optimisers for group in each.param_groups]

    def step(self, loss: torch.Tensor) -> None:
        """Send the loss back, take one step, and forget the gradients."""
        done = max(0, self.taken - self.warm_up) / max(1, self.steps - self.warm_up)
        share = min(1.0, (self.taken + 1) / self.warm_up) * (1 + math.cos(math.pi * done)) / 2
        groups = [group for each in self.optimisers for group in each.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * share
        loss.backward()
        parameters = [p for group in groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for each in self.optimisers:
            each.step()
            each.zero_grad(set_to_none=True)
        self.taken += 1
