"""Pictures from outside the drawn world that only serve to measure: training sees none of them.

Other photographs, other fonts, and other ways to draw each group than `outside.py` has, so that
a model that declines these has not merely learnt its training pictures by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import numpy
from PIL import Image, ImageDraw, ImageOps

from .outside import (
    PHOTOGRAPHS,
    VARIED,
    Outside,
    any_colour,
    as_jpeg,
    field,
    font,
    in_colours,
    open_photograph,
    paper_and_ink,
    photographs,
    piece,
    spread,
    write,
)
from .scenes import COLOURS, LARGE_RADIUS, SHAPES, Thing, draw, sample_scene, shade, thing_mask

HELD_OUT_PHOTOGRAPHS = {
    "skimage/data": (
        "camera.png",
        "cell.png",
        "chelsea.png",
        "clock_motion.png",
        "coins.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "microaneurysms.png",
        "retina.jpg",
        "rocket.jpg",
        "text.png",
    ),
    "sklearn/datasets/images": ("flower.jpg",),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}
HELD_OUT_FONTS = ("DejaVuSerif.ttf", "cmr10.ttf", "cmtt10.ttf")


def missing_photographs() -> list[str]:
    """Return the folders of packages whose photographs are not all here."""
    named = (PHOTOGRAPHS, HELD_OUT_PHOTOGRAPHS)
    folders = {inside for each in named for inside in each}
    return sorted(
        inside
        for inside in folders
        if any(
            len(photographs({inside: each.get(inside, ())})) < len(each.get(inside, ()))
            for each in named
        )
    )


def sample_held_out(random: Random, group: str) -> Outside:
    """Draw or open one picture of a group of `GROUPS`, 150 to 400 pixels."""
    picture = random.choice(GROUPS[group])(random, random.randint(150, 400)).convert("RGB")
    return Outside(group, as_jpeg(random, picture) if random.random() < 0.2 else picture)


def _photograph(named: dict, random: Random, side: int) -> Image.Image:
    """A whole photograph, or a piece that is no plain area; mirrored half of the time."""
    picture = open_photograph(random.choice(photographs(named)))
    while random.random() < 0.5:
        part = piece(random, picture, 0.4)
        if spread(part) > VARIED:
            picture = part
            break
    return ImageOps.mirror(picture) if random.random() < 0.5 else picture


# --- textures and noise ---------------------------------------------------------------------------


def _cells(random: Random, side: int) -> Image.Image:
    """Every pixel in the colour of the nearest of some points."""
    down, across = numpy.mgrid[0:side, 0:side]
    count = random.randint(15, 90)
    spots = [(random.uniform(0, side), random.uniform(0, side)) for _ in range(count)]
    distances = numpy.stack([numpy.hypot(across - x, down - y) for x, y in spots])
    palette = numpy.array([any_colour(random) for _ in spots], dtype=numpy.uint8)
    return Image.fromarray(palette[distances.argmin(0)])


def _weave(random: Random, side: int) -> Image.Image:
    """A tartan: bands of many widths across and down."""
    bands = numpy.repeat(
        [random.random() for _ in range(60)], [random.randint(3, 25) for _ in range(60)]
    )
    bands = numpy.resize(bands, side)
    return in_colours(random, (bands[None, :] + bands[:, None]) / 2, 4)


def _marble(random: Random, side: int) -> Image.Image:
    down, across = numpy.mgrid[0:side, 0:side] / side
    bent = (
        random.uniform(3, 8) * across + random.uniform(3, 8) * down + 5 * field(random, side, 1.5)
    )
    return in_colours(random, numpy.sin(bent * 3) / 2 + 0.5)


def _rings(random: Random, side: int) -> Image.Image:
    down, across = numpy.mgrid[0:side, 0:side] / side - 0.5
    radius = numpy.hypot(across - random.uniform(-0.4, 0.4), down - random.uniform(-0.4, 0.4))
    return in_colours(random, numpy.sin(radius * random.uniform(30, 110)) / 2 + 0.5, 2)


def _blocks(random: Random, side: int) -> Image.Image:
    """Squares of random colours, enlarged from a few pixels."""
    rng, count = numpy.random.default_rng(random.getrandbits(64)), random.randint(6, 40)
    small = rng.integers(0, 256, (count, count, 3), dtype=numpy.uint8)
    return Image.fromarray(small).resize((side, side), random.choice((0, 2, 3)))


def _salt(random: Random, side: int) -> Image.Image:
    """Pixels that are white or black in a plain area."""
    rng = numpy.random.default_rng(random.getrandbits(64))
    pixels = numpy.full((side, side, 3), any_colour(random), dtype=numpy.uint8)
    chance, small = rng.random((side // 2, side // 2)), random.uniform(0.08, 0.3)
    chance = chance.repeat(2, 0).repeat(2, 1)
    area = pixels[: len(chance), : len(chance)]
    area[chance < small], area[chance > 1 - small] = 0, 255
    return Image.fromarray(pixels)


# --- text and screens -----------------------------------------------------------------------------


def _held_out_font(random: Random, size: int):
    return font(random.choice(HELD_OUT_FONTS), size)


def _columns(random: Random, side: int) -> Image.Image:
    """A heading over columns of text."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, size, columns = (
        ImageDraw.Draw(picture),
        side // random.randint(14, 28),
        random.randint(1, 3),
    )
    write(random, pen, (size, size, side, size * 3), ink, _held_out_font, 2 * size)
    for column in range(columns):
        left = size + column * (side - size) / columns
        box = (left, size * 4, left + (side - 2 * size) / columns, side - size)
        write(random, pen, box, ink, _held_out_font, size)
    return picture


def _sign(random: Random, side: int) -> Image.Image:
    """A few large words on a coloured board."""
    picture = Image.new("RGB", (side, side * 2 // 3), any_colour(random))
    light = sum(picture.getpixel((0, 0))) > 380
    box = (side * 0.08, side * 0.08, side, side * 0.6)
    ink = (10, 10, 30) if light else (250, 250, 235)
    write(random, ImageDraw.Draw(picture), box, ink, _held_out_font, side // random.randint(5, 9))
    return picture


def _terminal(random: Random, side: int) -> Image.Image:
    picture = Image.new("RGB", (side, side * 3 // 4), (12, 12, random.randint(12, 60)))
    ink = random.choice(((90, 240, 90), (230, 230, 230), (240, 190, 70)))
    mono = lambda random, size: font("cmtt10.ttf", size)  # noqa: E731
    write(
        random,
        ImageDraw.Draw(picture),
        (4, 4, side, side * 0.73),
        ink,
        mono,
        side // random.randint(16, 30),
    )
    return picture


def _sheet(random: Random, side: int) -> Image.Image:
    """A spreadsheet: a grid with a word in most of its cells."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, step, size = ImageDraw.Draw(picture), side // random.randint(5, 9), side // 24
    pen.rectangle((0, 0, side, size * 2), fill=any_colour(random))
    for row in range(2 * size, side, 2 * size):
        pen.line((0, row, side, row), fill=ink)
        for column in range(0, side, step):
            pen.line((column, 0, column, side), fill=ink)
            if random.random() < 0.7:
                write(
                    random,
                    pen,
                    (column + 3, row + 2, column + step, row + size),
                    ink,
                    _held_out_font,
                    size,
                )
    return picture


def _phone(random: Random, side: int) -> Image.Image:
    """Messages in bubbles, left and right."""
    picture = Image.new(
        "RGB", (side * 2 // 3, side), random.choice(((236, 229, 221), (15, 20, 30), (250,) * 3))
    )
    pen, y, size = ImageDraw.Draw(picture), side * 0.1, max(7, side // 28)
    pen.rectangle((0, 0, side, side * 0.08), fill=any_colour(random))
    colours = (any_colour(random), (240, 240, 240))
    while y < side * 0.9:
        own, tall = random.random() < 0.5, size * random.randint(2, 5)
        left = side * (0.2 if own else 0.03)
        pen.rounded_rectangle((left, y, left + side * 0.42, y + tall), size, fill=colours[own])
        write(
            random,
            pen,
            (left + size, y + 3, left + side * 0.4, y + tall),
            (20, 20, 20),
            _held_out_font,
            size,
        )
        y += tall + size
    return picture


# --- lines ----------------------------------------------------------------------------------------


def _house(random: Random, side: int) -> Image.Image:
    """A child's drawing in lines: a house, a person, a sun."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, width, wall = (
        ImageDraw.Draw(picture),
        max(2, side // random.randint(50, 110)),
        side * random.uniform(0.3, 0.45),
    )
    left, floor = side * random.uniform(0.05, 0.15), side * 0.88
    line = partial(pen.line, fill=ink, width=width)
    roof = (left + wall / 2, floor - wall * 1.7)
    line(
        [
            (left, floor - wall),
            (left, floor),
            (left + wall, floor),
            (left + wall, floor - wall),
            (left, floor - wall),
        ]
    )
    line([(left, floor - wall), roof, (left + wall, floor - wall)])
    line(
        [
            (left + wall * 0.4, floor),
            (left + wall * 0.4, floor - wall * 0.5),
            (left + wall * 0.65, floor - wall * 0.5),
            (left + wall * 0.65, floor),
        ]
    )
    x, head = side * random.uniform(0.68, 0.85), side * 0.07
    top = floor - side * 0.4
    pen.ellipse((x - head, top - 2 * head, x + head, top), outline=ink, width=width)
    line([(x, top), (x, floor - side * 0.15)])
    line([(x - side * 0.1, top + side * 0.08), (x + side * 0.1, top + side * 0.08)])
    line([(x - side * 0.08, floor), (x, floor - side * 0.15), (x + side * 0.08, floor)])
    for ray in range(random.randint(5, 9)):
        sun, angle = (side * 0.8, side * 0.15), ray * 0.8
        line([sun, (sun[0] + side * 0.1 * math.cos(angle), sun[1] + side * 0.1 * math.sin(angle))])
    return picture


def _maze(random: Random, side: int) -> Image.Image:
    """Short diagonal strokes in a grid, or straight ones."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, cells, straight = ImageDraw.Draw(picture), random.randint(6, 14), random.random() < 0.5
    step = side / cells
    for row in range(cells):
        for column in range(cells):
            x, y, down = column * step, row * step, random.random() < 0.5
            ends = (x, y, x + step, y + step) if down else (x, y + step, x + step, y)
            if straight:
                ends = (x, y, x + step, y) if down else (x, y, x, y + step)
            pen.line(ends, fill=ink, width=max(1, side // 90))
    return picture


def _network(random: Random, side: int) -> Image.Image:
    """Nodes as small rings, joined by lines."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, width = ImageDraw.Draw(picture), max(1, side // 100)
    nodes = [
        (random.uniform(0.1, 0.9) * side, random.uniform(0.1, 0.9) * side)
        for _ in range(random.randint(5, 12))
    ]
    for one in nodes:
        pen.line([one, random.choice(nodes), random.choice(nodes)], fill=ink, width=width)
    for x, y in nodes:
        pen.ellipse(
            (x - side / 28, y - side / 28, x + side / 28, y + side / 28),
            fill=paper,
            outline=ink,
            width=width,
        )
    return picture


def _dashed(random: Random, side: int) -> Image.Image:
    """One to three of the known shapes as rings of dots or as double outlines."""
    scene = sample_scene(random, count=random.randint(1, 3))
    picture = draw(replace(scene, things=(), style="plain"), side)
    dotted = random.random() < 0.5
    for thing in scene.things:
        radii = (1, 0.88, 0.7, 0.58)
        for place, share in enumerate(radii if not dotted else radii[:2]):
            mask, corner = thing_mask(replace(thing, radius=thing.radius * share), side)
            picture.paste(scene.ground if place % 2 else thing.rgb, corner, mask)
        if dotted:
            pen = ImageDraw.Draw(picture)
            for spoke in range(0, 360, 24):
                reach = 1.3 * thing.radius * side
                x, y = thing.x * side, thing.y * side
                end = (
                    x + reach * math.cos(math.radians(spoke)),
                    y + reach * math.sin(math.radians(spoke)),
                )
                pen.line([(x, y), end], fill=scene.ground, width=max(2, round(reach / 7)))
    return picture


# --- too many things ------------------------------------------------------------------------------


def _circle_of_things(random: Random, side: int) -> Image.Image:
    """Four to eight things round a middle."""
    scene, count = sample_scene(random, count=0), random.randint(4, 8)
    scene = replace(scene, width=1.0, height=1.0, backdrop=None, background="white")
    things = []
    for place in range(count):
        angle = 2 * math.pi * (place + random.random() * 0.2) / count
        colour, shape = random.choice(list(COLOURS)), random.choice(SHAPES)
        radius = random.uniform(0.6, 0.95) * min(LARGE_RADIUS[3][0], 0.75 / count)
        spot = (0.5 + 0.36 * math.cos(angle), 0.5 + 0.36 * math.sin(angle))
        things.append(
            Thing(shape, colour, "", *spot, radius, random.uniform(-8, 8), shade(random, colour))
        )
    return draw(replace(scene, things=tuple(things)), side)


def _dots(random: Random, side: int) -> Image.Image:
    """Polka dots in one or a few colours."""
    picture = Image.new("RGB", (side, side), any_colour(random))
    pen, step = ImageDraw.Draw(picture), side / random.randint(3, 8)
    colours = [any_colour(random) for _ in range(random.randint(1, 3))]
    if max(abs(a - b) for a, b in zip(colours[0], picture.getpixel((0, 0)), strict=True)) < 80:
        return _dots(random, side)
    radius, shift = step * random.uniform(0.2, 0.42), random.choice((0, 0.5))
    for row in range(10):
        for column in range(-1, 10):
            x, y = (column + 0.5 + shift * (row % 2)) * step, (row + 0.5) * step
            pen.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=colours[(row + column) % len(colours)],
            )
    return picture


def _scatter(random: Random, side: int) -> Image.Image:
    """A scatter plot with axes."""
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    pen, count = ImageDraw.Draw(picture), random.randint(15, 60)
    pen.line(
        [(side * 0.1, side * 0.05), (side * 0.1, side * 0.9), (side * 0.95, side * 0.9)],
        fill=(0, 0, 0),
    )
    colours, radius = [any_colour(random) for _ in range(3)], side * random.uniform(0.01, 0.025)
    for _ in range(count):
        x, y = random.uniform(0.12, 0.92) * side, random.uniform(0.08, 0.88) * side
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=random.choice(colours))
    return picture


GROUPS: dict[str, tuple[Callable[[Random, int], Image.Image], ...]] = {
    "photographs": (partial(_photograph, HELD_OUT_PHOTOGRAPHS),),
    "photographs of training": (partial(_photograph, PHOTOGRAPHS),),
    "textures": (_cells, _weave, _marble, _rings),
    "noise": (_blocks, _salt),
    "text": (_columns, _sign),
    "screens": (_terminal, _sheet, _phone),
    "line drawings": (_house, _maze, _network),
    "outlines": (_dashed,),
    "crowded": (_circle_of_things, _dots, _scatter),
}
