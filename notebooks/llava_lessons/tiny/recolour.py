"""Pictures in colours without a name, from which shapes are learnt apart from colours.

A model that only sees the forty named pairs, five of them held out, learns to read a
shape off its colour. So many training pictures are recoloured: their things take any
colour that stands out, half of them fading into a second one, and half of the
backgrounds take any colour too.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from .scenes import COLOURS, HELD_OUT_PAIRS, Colour, Scene, Thing

STANDS_OUT = 70  # levels of 256, in the channel that differs most
_ANCHORS = [(anchor, name) for name, anchors in COLOURS.items() for anchor in anchors]


def recolour(random: Random, scene: Scene, *, freely: bool = False) -> Scene:
    """Give each thing any colour that stands out, and no colour name.

    `freely`: half of the things fade into a second colour, and half of the pictures get
    a background of any colour.
    """
    if freely and random.random() < 0.5:
        scene = replace(scene, backdrop=_any_colour(random))
    things = []
    for thing in scene.things:
        while True:
            second = _any_colour(random) if freely and random.random() < 0.5 else None
            new = replace(thing, rgb=_any_colour(random), fading_to=second, colour="")
            if _stands_out(new, scene.ground) and thing.shape not in barred_shapes(new):
                break
        things.append(new)
    return replace(scene, things=tuple(things))


def barred_shapes(thing: Thing) -> set[str]:
    """Return the shapes that a thing of this colour never has in training.

    They are held out with the colour's name, or with the name nearest to it.
    """
    colours = {thing.colour} if thing.colour else {nearest_colour(rgb) for rgb in _shades(thing)}
    return {shape for colour, shape in HELD_OUT_PAIRS if colour in colours}


def nearest_colour(rgb: Colour) -> str:
    """Return the colour name with the closest anchor, so no held-out pair slips in."""
    red, green, blue = rgb
    return min(
        ((red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2, name) for (r, g, b), name in _ANCHORS
    )[1]


def _any_colour(random: Random) -> Colour:
    return (random.randrange(256), random.randrange(256), random.randrange(256))


def _shades(thing: Thing) -> list[Colour]:
    """Return the colours in a thing: its own, and if it fades, the last and the middle one."""
    if thing.fading_to is None:
        return [thing.rgb]
    middle = tuple((a + b) // 2 for a, b in zip(thing.rgb, thing.fading_to, strict=True))
    return [thing.rgb, middle, thing.fading_to]


def _stands_out(thing: Thing, ground: Colour) -> bool:
    differences = (
        max(abs(value - level) for value, level in zip(shade, ground, strict=True))
        for shade in _shades(thing)
    )
    return min(differences) > STANDS_OUT
