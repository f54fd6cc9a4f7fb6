"""Pictures that come with the package, for a first caption without a picture at hand.

All are drawn by `llava_nb.tiny.scenes`, so that the embedded model knows what they
show: `python -m llava_nb.pictures` draws them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tiny.scenes import Scene

FOLDER = Path(__file__).parent
# File name -> the seed of its scene and the number of things in it.
SEEDS = {"one_shape.png": (151, 1), "two_shapes.png": (1300, 2), "three_shapes.png": (3558, 3)}


def example_picture(name: str = "three_shapes.png") -> Path:
    """Return the path of a bundled picture; the names are the keys of `SEEDS`."""
    if name not in SEEDS:
        raise KeyError(f"There is no bundled picture {name!r}; there are: {', '.join(SEEDS)}.")
    return FOLDER / name


def scene_of(name: str) -> Scene:
    """Return the `Scene` that a bundled picture was drawn from."""
    from random import Random

    from ..tiny.scenes import sample_scene

    seed, count = SEEDS[name]
    return sample_scene(Random(seed), count=count)


def draw_all(folder: Path = FOLDER) -> None:
    """Draw every bundled picture into `folder`."""
    from ..tiny.scenes import draw

    for name in SEEDS:
        draw(scene_of(name), 480).save(folder / name, optimize=True)
