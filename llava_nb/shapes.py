"""The sizes of a LLaVA, and how they follow from its config.

Covered: the shape, for every model of the family that `load()` reads, and the most tokens
that a picture becomes where a model cuts pictures into tiles. Not covered: what a shape
takes in bytes (`parts.py`, `sizes.py`), and which shape a short name has (`models.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TILED = ("llava_next", "llava_onevision")
TOLERATED = 1.1  # LLaVA-OneVision shrinks a picture's features from this excess in each direction


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA: a language model of Llama's kind, a tower, a two-layer projector.

    The defaults are those of LLaVA-1.5: CLIP ViT-L/14 at 336 pixels, where 24 x 24
    patches and one class token make 577 positions. Fields have the names of the
    transformers configurations, shortened.

    `kv_hidden` is the width of all key heads together, which is `hidden` unless query
    heads share them (grouped-query attention). `tied`: the head is the embeddings once
    more and takes nothing. `tiles`: into how many pieces, the whole among them, a picture
    is cut at the most, and `picture_tokens` how many tokens it then is at the most; None is
    all patches once. `tower_norms` are the norms outside the tower's layers (CLIP has one
    before and one after, SigLIP one after). `features` is how many of the tower's layers
    the projector reads side by side, `projector_norm` whether it begins with a norm,
    `newline` whether there is a vector for the end of each row, and `attention_bias`
    whether queries, keys and values have one (Qwen2).
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    tower_hidden: int = 1024
    tower_layers: int = 24
    tower_intermediate: int = 4096
    tower_positions: int = 577
    patch: int = 14
    kv_hidden: int | None = None
    tied: bool = False
    tiles: int = 1
    picture_tokens: int | None = None
    tower_norms: int = 2
    features: int = 1
    projector_norm: bool = False
    newline: bool = False
    attention_bias: bool = False

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the prompt, at the most."""
        if self.picture_tokens is not None:
            return self.picture_tokens
        return self.tower_positions - 1  # the patches, without the class token

    @property
    def kv_width(self) -> int:
        """Numbers in a key, and in a value, of one token in one layer."""
        return self.kv_hidden or self.hidden


def shape_of(config: PretrainedConfig) -> Shape:
    """Return the sizes of the model that the config describes.

    A tower that is not described as CLIP and SigLIP are counts as LLaVA-1.5's: towers are
    small beside the language model.
    """
    text = config.text_config
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    try:
        tower = _tower(config)
    except (AttributeError, TypeError):
        tower = {}
    return Shape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_hidden=None if key_heads == heads else key_heads * head_width,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        newline=config.model_type in TILED,
        attention_bias=text.model_type == "qwen2",
        **tower,
    )


def _tower(config: PretrainedConfig) -> dict[str, Any]:
    """Return the part of a shape that the tower has a say in."""
    vision = config.vision_config
    patches = vision.image_size // vision.patch_size
    siglip = "siglip" in vision.model_type
    positions = patches**2 + (not siglip)  # CLIP's class token
    layers = getattr(config, "vision_feature_layer", None)
    if config.model_type == "vipllava":
        layers = getattr(config, "vision_feature_layers", layers)
    # The first position is left out, as CLIP's class token; the original does so in any tower.
    is_whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
    tokens, tiles = positions if is_whole else positions - 1, 1
    if config.model_type in TILED:
        side, grid = vision.image_size, config.image_grid_pinpoints
        limit = re.search(r"\d+", getattr(config, "vision_aspect_ratio", ""))
        tokens += most_tokens(grid, side, patches, int(limit[0]) if limit else None)
        tiles += max((high // side) * (wide // side) for high, wide in grid)
    return {
        "tower_hidden": vision.hidden_size,
        "tower_layers": vision.num_hidden_layers,
        "tower_intermediate": vision.intermediate_size,
        "tower_positions": positions,
        "patch": vision.patch_size,
        "tower_norms": 1 if siglip else 2,
        "features": len(layers) if isinstance(layers, (list, tuple)) else 1,
        "projector_norm": config.model_type == "vipllava",
        "tiles": tiles,
        "picture_tokens": None if tokens == positions - 1 else tokens,
    }


def most_tokens(grid: Any, side: int, patches: int, limit: int | None) -> int:
    """Return the most tokens that the tiles of one picture become, the whole picture not counted.

    `grid` are the sizes, (height, width) in pixels, to which pictures are scaled; a tile is
    `side` pixels and `patches` patches wide. Where the picture has another form than its size
    in the grid, rows or columns at the edges are left out; each row ends with one
    token more. With `limit` (LLaVA-OneVision's "anyres_max_9") what is more than that many
    tiles is shrunk, from an excess of 1.1 in each direction on.

    This is an upper bound: of some sizes, pictures that would need them get another.
    Source: `pack_image_features` in transformers' llava_next and llava_onevision.
    """
    most = 0
    for high, wide in grid:
        for rows, columns in _without_edges(high // side * patches, wide // side * patches):
            excess = math.sqrt(rows * columns / (limit * patches**2)) if limit else 0
            if excess > TOLERATED:
                rows, columns = int(rows // excess), int(columns // excess)
            most = max(most, rows * (columns + 1))
    return most


def _without_edges(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Give the sizes that are left when the same is cut off at two opposite edges."""
    yield from ((rows, columns - cut) for cut in range(0, columns, 2))
    yield from ((rows - cut, columns) for cut in range(2, rows, 2))
