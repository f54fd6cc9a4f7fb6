"""Draws the pictures that come with the package again: `python -m llava_lessons.pictures`."""

from __future__ import annotations

from random import Random

from llava_nb.images import EXAMPLES as FOLDER

from .tiny.scenes import Scene, draw, sample_scene

# File name -> the seed of its scene and the number of things in it.
SEEDS = {"one_shape.png": (151, 1), "two_shapes.png": (1300, 2), "three_shapes.png": (3558, 3)}


def scene_of(name: str) -> Scene:
    """Return the `Scene` that a bundled picture was drawn from."""
    seed, count = SEEDS[name]
    return sample_scene(Random(seed), count=count)


if __name__ == "__main__":
    for name in SEEDS:
        draw(scene_of(name), 480).save(FOLDER / name, optimize=True)
