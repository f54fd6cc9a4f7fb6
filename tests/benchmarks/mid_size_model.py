"""A random LLaVA of about 100 million parameters that reads a picture as LLaVA-1.5 does.

336 pixels, 576 image tokens, Llama and CLIP of transformers, in the proportions of LLaVA-1.5-7B:
the tower is 4 % of it. So reading a prompt costs what it costs beside making a token, on a
CPU too, where 7B would take minutes. It answers gibberish that hardly ever ends by itself.
Not covered: how such a model is made (`random_model.py`).
"""

from __future__ import annotations

from random_model import make_random

from llava_nb.llava import Llava
from llava_nb.sizes import Shape

NAME = "mid-size"
TOWER_POSITIONS = 577  # 24 x 24 patches and the class token
# The words are those of the tokenizer, filled up to a multiple of 64.
SHAPE = Shape(768, 13, 2048, 704, 256, 5, 1024, TOWER_POSITIONS)
QUICK = Shape(128, 2, 320, 704, 64, 2, 128, TOWER_POSITIONS)


def make_mid_size(*, quick: bool = False) -> Llava:
    """Return the model, unquantised; with `quick` a far smaller one, which still has 576 tokens."""
    return make_random(NAME, QUICK if quick else SHAPE, None)
