"""Pictures for teaching: what happens inside LLaVA between a picture and an answer.

    from llava_nb.anatomy import look_inside, show_attention
    insides = look_inside(llava, picture, "What colour is the star?")
    show_attention(insides, "Blue")

`look_inside` runs the model once and keeps its own tensors, taken by forward hooks; each
`show_...` draws one thing from them and returns a matplotlib figure. Every one of them is built in
front of the reader in `notebooks/07_how_llava_sees.ipynb` before it is used there. The names are
imported when they are first used, so that matplotlib is needed by the figures alone.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Insides": "insides",
    "Token": "insides",
    "look_inside": "insides",
    "blank_each_cell": "occlusion",
    "show_occlusion": "occlusion",
    "main_colours": "sight",
    "show_preparation": "sight",
    "show_patches": "sight",
    "show_features": "sight",
    "show_tokens": "words",
    "show_probabilities": "words",
    "show_growth": "words",
    "show_attention": "looking",
    "show_heads": "looking",
    "attention_slider": "looking",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name from its module at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"llava_nb.anatomy has no name {name!r}; it has: {', '.join(_HOMES)}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
