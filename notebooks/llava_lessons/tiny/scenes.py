"""The world that the embedded model knows: pictures of coloured shapes.

A scene holds none to three things (a shape, a colour, a size) on a plain,
shaded or grainy background: white, grey or black, and without a thing on it also in
any of the colours. Two or three things stand in a row or in a column,
so that "to the left of" and "above" always have one answer. Everything is drawn
from a seeded generator: the same seed gives the same scene.

Lengths are fractions of the picture's longer side, so that a scene can be drawn
at any size; x grows to the right and y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
BACKGROUNDS = {"white": 248, "grey": 150, "black": 14}
STYLES = ("plain", "shaded", "grainy")
LAYOUTS = ("empty", "alone", "row", "column")

# Each colour is any mixture of its anchors, which include the CSS colour of that
# name: a person's own drawing in "red" is then no stranger than ours.
COLOURS = {
    "red": ((225, 40, 40), (255, 0, 0), (200, 30, 45)),
    "orange": ((245, 135, 25), (255, 165, 0), (255, 140, 0)),
    "yellow": ((250, 220, 50), (255, 255, 0), (240, 225, 20)),
    "green": ((40, 160, 70), (0, 128, 0), (0, 220, 30)),
    "cyan": ((60, 205, 225), (0, 255, 255), (40, 190, 200)),
    "blue": ((45, 80, 215), (0, 0, 255), (30, 50, 170)),
    "purple": ((135, 55, 180), (128, 0, 128), (150, 40, 200)),
    "pink": ((245, 130, 190), (255, 192, 203), (255, 105, 180)),
}

# Never drawn and never named in training: they show whether colour and shape
# were learnt apart. One for each shape, five different colours.
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("blue", "triangle"),
        ("green", "cross"),
        ("yellow", "circle"),
        ("purple", "square"),
    }
)
ALL_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TRAINED_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)

SMALL_RADIUS = (0.085, 0.105)
LARGE_RADIUS = {1: (0.135, 0.26), 2: (0.135, 0.19), 3: (0.135, 0.15)}

Colour = tuple[int, int, int]  # red, green and blue, 0 to 255 each


@dataclass(frozen=True)
class Thing:
    """One shape: its names, and where and how it is drawn (fractions, degrees).

    With `fading_to` its colour goes over into that one, from top to bottom.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: Colour
    fading_to: Colour | None = None

    @property
    def phrase(self) -> str:
        """The thing in words, e.g. "large red circle"."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `things` run left to right or top to bottom.

    A `backdrop` takes the place of the background's own colour.
    """

    things: tuple[Thing, ...]
    layout: str
    background: str
    style: str
    width: float
    height: float
    seed: int
    backdrop: Colour | None = None

    @property
    def ground(self) -> Colour:
        """The background's colour, before any shading or grain."""
        return self.backdrop or (BACKGROUNDS[self.background],) * 3


def sample_scene(
    random: Random,
    *,
    count: int | None = None,
    pairs: Sequence[tuple[str, str]] = TRAINED_PAIRS,
    must_hold: Sequence[tuple[str, str]] = (),
) -> Scene:
    """Draw up a scene of `count` things (None: 0 to 3, rarely 0).

    The colour-shape pairs come from `pairs` and are all different; with
    `must_hold`, one of the things is a pair from there.
    """
    if count is None:
        count = random.choices((0, 1, 2, 3), weights=(1, 5, 7, 7))[0]
    width, height, layout = _frame(random, count)
    chosen = random.sample(list(pairs), count)
    if must_hold and count:
        forced = random.choice(list(must_hold))
        chosen = [pair for pair in chosen if pair != forced]
        chosen = (chosen + random.sample(list(pairs), count))[: count - 1]
        chosen.insert(random.randrange(count), forced)
    sizes = [random.choice(SIZES) for _ in chosen]
    ranges = [SMALL_RADIUS if size == "small" else LARGE_RADIUS[count] for size in sizes]
    radii = [random.uniform(*limits) for limits in ranges]
    spots = _spots(random, layout, width, height, radii)
    things = tuple(
        Thing(shape, colour, size, x, y, radius, random.uniform(-8, 8), shade(random, colour))
        for (colour, shape), size, radius, (x, y) in zip(chosen, sizes, radii, spots, strict=True)
    )
    background, style, backdrop = random.choice(list(BACKGROUNDS)), random.choice(STYLES), None
    if not count and random.random() < 0.6:  # a plain area may have any colour
        background = random.choice(list(COLOURS))
        backdrop = shade(random, background)
    seed = random.getrandbits(32)
    return Scene(things, layout, background, style, width, height, seed, backdrop)


def shade(random: Random, colour: str) -> Colour:
    """Return one RGB value that goes by the name `colour`."""
    weights = [random.random() ** 2 + 1e-3 for _ in COLOURS[colour]]
    mixed = (
        sum(
            weight * anchor[channel]
            for weight, anchor in zip(weights, COLOURS[colour], strict=True)
        )
        / sum(weights)
        for channel in range(3)
    )
    return tuple(min(255, max(0, round(value + random.uniform(-8, 8)))) for value in mixed)


def draw(scene: Scene, side: int = 336) -> Image.Image:
    """Draw the scene as an RGB picture whose longer side has `side` pixels."""
    size = (round(side * scene.width), round(side * scene.height))
    picture = Image.fromarray(_backdrop(scene, size))
    for thing in scene.things:
        mask, corner = thing_mask(thing, side)
        picture.paste(_paint(thing, mask.size), corner, mask)
    return picture


def _paint(thing: Thing, size: tuple[int, int]) -> Image.Image:
    """Return the thing's colour, or its fading from one to another, in every pixel."""
    paint = Image.new("RGB", size, thing.rgb)
    if thing.fading_to is not None:
        paint.paste(thing.fading_to, (0, 0), Image.linear_gradient("L").resize(size))
    return paint


def thing_mask(thing: Thing, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return the thing's coverage (mode "L", 0 to 255) and its top left corner.

    Drawn at twice the size and averaged, so that edges are smooth.
    """
    reach = thing.radius * 1.15 * side
    left, top = math.floor(thing.x * side - reach), math.floor(thing.y * side - reach)
    span = math.ceil(2 * reach) + 1
    mask = Image.new("L", (2 * span, 2 * span))
    pen = ImageDraw.Draw(mask)
    centre_x, centre_y = 2 * (thing.x * side - left), 2 * (thing.y * side - top)
    radius = 2 * thing.radius * side
    if thing.shape == "circle":
        box = (centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius)
        pen.ellipse(box, fill=255)
    else:
        cos, sin = math.cos(math.radians(thing.angle)), math.sin(math.radians(thing.angle))
        corners = [
            (centre_x + radius * (x * cos - y * sin), centre_y + radius * (x * sin + y * cos))
            for x, y in OUTLINES[thing.shape]
        ]
        pen.polygon(corners, fill=255)
    return mask.reduce(2), (left, top)


def _star() -> list[tuple[float, float]]:
    points = []
    for step in range(10):
        reach = 1.12 if step % 2 == 0 else 0.47
        angle = math.pi * step / 5
        points.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return points


def _cross(arm: float = 0.33) -> list[tuple[float, float]]:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    points = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return points


# Corner points round the centre, in units of the thing's radius.
OUTLINES = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)],
    "star": _star(),
    "cross": _cross(),
}


def _frame(random: Random, count: int) -> tuple[float, float, str]:
    """Choose width and height (the longer is 1) and how the things stand."""
    width = height = 1.0
    shape = random.choices(("square", "wide", "tall"), weights=(6, 1, 1))[0]
    if shape == "wide":
        height = random.uniform(0.62, 0.95)
    elif shape == "tall":
        width = random.uniform(0.62, 0.95)
    if count < 2:
        return width, height, LAYOUTS[count]
    # Three things only fit along the longer side.
    layout = {"wide": "row", "tall": "column"}.get(shape) or random.choice(("row", "column"))
    return width, height, layout


def _spots(
    random: Random, layout: str, width: float, height: float, radii: Sequence[float]
) -> list[tuple[float, float]]:
    """Place the things: one cell each along the layout, loosely across it."""
    if layout == "empty":
        return []
    along, across = (height, width) if layout == "column" else (width, height)
    cell = along / len(radii)
    margin = 1.12 * max(radii)
    line = random.uniform(margin, across - margin)
    spots = []
    for index, radius in enumerate(radii):
        slack = max(0.0, cell / 2 - 1.12 * radius)
        forward = cell * (index + 0.5) + random.uniform(-slack, slack)
        sideways = min(max(line + random.uniform(-0.06, 0.06), margin), across - margin)
        spots.append((sideways, forward) if layout == "column" else (forward, sideways))
    return spots


def _backdrop(scene: Scene, size: tuple[int, int]) -> numpy.ndarray:
    """Return the background as (height, width, 3) bytes."""
    width, height = size
    pixels = numpy.full((height, width, 3), scene.ground, dtype=numpy.float32)
    generator = numpy.random.default_rng(scene.seed)
    if scene.style == "shaded":
        angle = generator.uniform(0, 2 * math.pi)
        across = numpy.linspace(-0.5, 0.5, width)[None, :] * math.cos(angle)
        down = numpy.linspace(-0.5, 0.5, height)[:, None] * math.sin(angle)
        pixels += (40 * (across + down))[:, :, None]
    elif scene.style == "grainy":
        # The grain has the same look at every size: drawn coarse, then enlarged.
        coarse = generator.normal(0, 9, (112, 112)).astype(numpy.float32)
        rows = numpy.arange(height) * 112 // max(size)
        columns = numpy.arange(width) * 112 // max(size)
        pixels += coarse[rows][:, columns][:, :, None]
    return numpy.clip(pixels, 0, 255).astype(numpy.uint8)
