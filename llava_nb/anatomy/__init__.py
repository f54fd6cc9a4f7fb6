"""Pictures for teaching: what happens inside LLaVA between a picture and an answer.

    from llava_nb.anatomy import look_inside, show_attention
    insides = look_inside(llava, picture, "What colour is the star?")
    show_attention(insides, "Blue")

`look_inside` runs the model once and keeps its own tensors, taken by forward hooks; each
`show_...` draws one thing from them and returns a matplotlib figure. Every one of them is built in
front of the reader in `notebooks/07_how_llava_sees.ipynb` before it is used there. The names are
imported when they are first used.
"""

from __future__ import annotations

from ..lazy import on_first_use

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
__getattr__ = on_first_use(__name__, _HOMES)
