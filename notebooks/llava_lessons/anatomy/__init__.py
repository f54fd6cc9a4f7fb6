"""Pictures for teaching: what happens inside LLaVA between a picture and an answer.

    from llava_lessons.anatomy import look_inside, show_attention
    insides = look_inside(llava, picture, "What colour is the star?")
    show_attention(insides, "Blue")

`look_inside` runs the model once and keeps its own tensors; each `show_...` draws one thing from
them and returns a matplotlib figure. Every one of them is built in front of the reader in
`notebooks/07_how_llava_sees.ipynb` before it is used there.
"""

from .insides import Insides, Token, look_inside
from .looking import attention_slider, show_attention, show_heads
from .occlusion import blank_each_cell, show_occlusion
from .sight import main_colours, show_features, show_patches, show_preparation
from .words import show_growth, show_probabilities, show_tokens

__all__ = [
    "Insides",
    "Token",
    "attention_slider",
    "blank_each_cell",
    "look_inside",
    "main_colours",
    "show_attention",
    "show_features",
    "show_growth",
    "show_heads",
    "show_occlusion",
    "show_patches",
    "show_preparation",
    "show_probabilities",
    "show_tokens",
]
