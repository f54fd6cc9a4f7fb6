"""How fast memory is, and how much of it a model has to read for one token.

A token needs every weight of the language model once, and the keys and values of what was read
before: no decoding is faster than memory gives those. Not covered: the formulas for bytes
(`llava_nb/parts.py`).
"""

from __future__ import annotations

from statistics import median

import torch
from in_turn import clocked

from llava_nb.llava import Llava
from llava_nb.sizes import GIB, kv_bytes_per_token, shape_of, weights_by_part

READ_PER_TOKEN = ("language model", "head")  # of the embeddings it is one row
BLOCK_BYTES = {"cuda": 2 * GIB, "cpu": GIB // 4}  # far more than any cache of a processor holds
COPIES = 15


def copied_bytes_per_second(device: torch.device, block_bytes: int | None = None) -> float:
    """Return what memory reads and writes together while it copies a large block."""
    size = block_bytes or BLOCK_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [clocked(target.copy_, source, device)[0] for _ in range(COPIES)]
    return 2 * size / median(seconds)


def bytes_per_token(llava: Llava, context_tokens: int) -> int:
    """Return the bytes that one more token after `context_tokens` has to read."""
    shape, number = shape_of(llava.model.config), llava.model.dtype.itemsize
    weights = weights_by_part(shape, llava.quantization, number)
    read = sum(weights[part] for part in READ_PER_TOKEN)
    return read + context_tokens * kv_bytes_per_token(shape, number)
