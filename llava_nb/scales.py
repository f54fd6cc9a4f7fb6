"""The scales of 4-bit layers, kept exact on CPUs where bitsandbytes rounds them.

From 0.49 on, where the CPU has AVX512-BF16, the first forward of a `Linear4bit` packs its
weights anew, in place, and rounds its scales to bfloat16; `state_dict()` unpacks and
quantises the rounded scales again. (Source: `_convert_weight_packed_for_cpu` and its
inverse in bitsandbytes/functional.py.) So a model that is saved after it has answered
would be another, and so would the one in memory. The 4-bit numbers themselves come
back exactly.

Covered: remembering the scales as they were loaded, and putting them back. On a GPU, and
on other CPUs, nothing is packed and this changes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

SCALES = ("absmax", "offset", "state2", "nested")


def keep_scales(network: Any) -> None:
    """Remember the scales of 4-bit layers on a CPU; to be called before the first answer.

    Once the layers are packed, what is remembered takes a byte for 63 of their
    parameters: 0.1 GiB for 7B.
    """
    for layer in _layers(network):
        state = layer.weight.quant_state
        layer.scales_as_loaded = {name: getattr(state, name, None) for name in SCALES}


def restore_scales(network: Any) -> None:
    """Unpack the layers, with the scales that they were loaded with.

    The next answer packs them again, to the same numbers as before. Warns if there are
    packed layers whose scales were not kept: theirs are approximate.
    """
    lost = 0
    for layer in _layers(network):
        packed = getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
        if packed:
            layer.state_dict()  # unpacks in place
        kept = getattr(layer, "scales_as_loaded", None)
        vars(layer.weight.quant_state).update(kept or {})
        lost += packed and kept is None
    if lost:
        warnings.warn(
            f"bitsandbytes has rounded the scales of {lost} layers since this model first "
            "answered, so a saved copy may answer slightly differently. Make the model with "
            "load(), or save it before it answers.",
            stacklevel=4,
        )


def _layers(network: Any) -> Iterator[Any]:
    import bitsandbytes

    for layer in network.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.device.type == "cpu":
            yield layer
