"""Pictures that come with the package, for a first caption without a picture at hand.

They are drawn, so that the embedded model knows what they show.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("one_shape.png", "two_shapes.png", "three_shapes.png")


def example_picture(name: str = "three_shapes.png") -> Path:
    """Return the path of a bundled picture; `NAMES` are all of them."""
    if name not in NAMES:
        raise KeyError(f"There is no bundled picture {name!r}; there are: {', '.join(NAMES)}.")
    return FOLDER / name
