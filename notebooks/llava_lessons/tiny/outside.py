"""Pictures from outside the drawn world, which the embedded model learns to decline.

Of each, every question has one answer: that it cannot tell. Most kinds are drawn here, from
a seeded generator; photographs are those that scikit-image and scikit-learn bring with
them (`pip install "llava_nb[train]"`). Without these packages there are no photographs
among the training pictures, and everything else goes on.

Kinds, photographs and fonts that only serve to measure are in `outside_held_out.py`.
"""

from __future__ import annotations

import io
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from .scenes import COLOURS, SHAPES, Colour, Scene, Thing, draw, sample_scene, shade, thing_mask
from .unanswerable import NOUNS

# Folders of packages, and the photographs in them that training may see.
PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "coffee.png",
        "grass.png",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "page.png",
    ),
    "sklearn/datasets/images": ("china.jpg",),
}
# Pillow's own font is always there; those of matplotlib where it is installed.
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "STIXGeneral.ttf")
VARIED = 22.0  # levels of 256: a piece of a photograph that varies less is a plain area


@dataclass(frozen=True)
class Outside:
    """A picture that is no scene of the drawn world."""

    kind: str
    picture: Image.Image


def sample_outside(random: Random, kinds: dict[str, tuple[int, Callable]] | None = None) -> Outside:
    """Draw a picture of one of the kinds (name: weight, function), by default those of training."""
    kinds = kinds or KINDS
    weights = [weight for weight, _ in kinds.values()]
    kind = random.choices(list(kinds), weights=weights)[0]
    while True:
        picture = kinds[kind][1](random, random.randint(112, 260))
        if spread(picture) > VARIED or kind not in VARYING:
            return Outside(kind, developed(random, picture, cut=kind in VARYING))


def spread(picture: Image.Image) -> float:
    """Return the standard deviation of a picture's levels, over the picture, at 56 pixels."""
    small = numpy.asarray(picture.convert("RGB").resize((56, 56)), dtype=numpy.float32)
    return float(small.reshape(-1, 3).std(axis=0).max())


def developed(random: Random, picture: Image.Image, *, cut: bool) -> Image.Image:
    """Return the picture as it might come: mirrored, without colour, blurred, as a JPEG.

    `cut` may also cut a side off. Not of things: what is left could be a scene.
    """
    picture = picture.convert("RGB")
    if cut and random.random() < 0.5:
        width, height = picture.size
        share = random.uniform(0.6, 0.95)
        size = (
            (round(width * share), height)
            if random.random() < 0.5
            else (width, round(height * share))
        )
        picture = picture.crop((0, 0, *size))
    if random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    if random.random() < 0.15:
        picture = picture.convert("L").convert("RGB")
    if random.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.5)))
    return as_jpeg(random, picture) if random.random() < 0.3 else picture


def as_jpeg(random: Random, picture: Image.Image) -> Image.Image:
    """Return the picture after it was saved as a JPEG of some quality, 50 to 95."""
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=random.randint(50, 95))
        return Image.open(file).convert("RGB")


# --- photographs ----------------------------------------------------------------------------------


def package_folder(inside: str) -> Path | None:
    """Return a folder of a package, e.g. "skimage/data", without importing the package."""
    package, _, rest = inside.partition("/")
    found = find_spec(package)
    folder = Path(found.origin).parent / rest if found and found.origin else None
    return folder if folder and folder.is_dir() else None


@lru_cache(maxsize=64)
def open_photograph(path: Path) -> Image.Image:
    """Open a photograph, in RGB, shrunk to 640 pixels at most."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((640, 640))
    return picture


def photographs(named: dict[str, Sequence[str]] = PHOTOGRAPHS) -> list[Path]:
    """Return those of the named photographs that are there."""
    folders = {inside: package_folder(inside) for inside in named}
    paths = [
        folders[inside] / name for inside in named if folders[inside] for name in named[inside]
    ]
    return [path for path in paths if path.exists()]


def _photograph(random: Random, side: int) -> Image.Image:
    """A photograph or a piece of one, in other colours; dead leaves if there are none."""
    paths = photographs()
    if not paths:
        return _leaves(random, side)
    picture = open_photograph(random.choice(paths))
    if random.random() < 0.7:
        picture = piece(random, picture, 0.25)
    picture = picture.copy()
    picture.thumbnail((side, side))
    if random.random() < 0.6:
        bands = list(picture.split())
        random.shuffle(bands)
        factors = [random.uniform(0.6, 1.25) for _ in bands]
        bands = [
            band.point(lambda level, by=factor: min(255, level * by))
            for band, factor in zip(bands, factors, strict=True)
        ]
        picture = Image.merge("RGB", bands)
    if random.random() < 0.2:
        picture = ImageOps.invert(picture)
    if random.random() < 0.3:  # pale or dim, and out of focus
        flat = Image.new("RGB", picture.size, any_grey(random))
        picture = Image.blend(picture, flat, random.uniform(0.2, 0.6))
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.02) * side))
    return picture.rotate(random.choice((0, 90, 180, 270)), expand=True)


def piece(random: Random, picture: Image.Image, least: float) -> Image.Image:
    """Return a part of the picture, `least` to all of its width and height."""
    width, height = (round(random.uniform(least, 1) * length) for length in picture.size)
    left = random.randint(0, picture.width - width)
    top = random.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


# --- textures -------------------------------------------------------------------------------------


def any_colour(random: Random) -> Colour:
    """Return one of all the colours that there are."""
    return (random.randrange(256), random.randrange(256), random.randrange(256))


def any_grey(random: Random) -> Colour:
    """Return one of all the greys."""
    return (random.randrange(256),) * 3


def field(random: Random, side: int, exponent: float) -> numpy.ndarray:
    """Return noise from 0 to 1, (side, side), whose amplitude falls with frequency ** exponent."""
    rng = numpy.random.default_rng(random.getrandbits(64))
    rows, columns = numpy.fft.fftfreq(side)[:, None], numpy.fft.rfftfreq(side)[None, :]
    frequency = numpy.hypot(rows, columns)
    frequency[0, 0] = 1
    spectrum = numpy.fft.rfft2(rng.normal(size=(side, side))) * frequency**-exponent
    noise = numpy.fft.irfft2(spectrum, (side, side))
    low, high = numpy.percentile(noise, (1, 99))
    return numpy.clip((noise - low) / (high - low), 0, 1)


def in_colours(random: Random, values: numpy.ndarray, colours: int = 3) -> Image.Image:
    """Paint values from 0 to 1 with a scale of a few colours that differ."""
    while True:
        scale = numpy.array([any_colour(random) for _ in range(random.randint(2, colours))])
        if numpy.ptp(scale, axis=0).max() > 90:
            break
    places = numpy.linspace(0, 1, len(scale))
    bands = [numpy.interp(values, places, scale[:, band]) for band in range(3)]
    return Image.fromarray(numpy.stack(bands, axis=-1).astype(numpy.uint8))


def grid(random: Random, side: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the coordinates of every pixel, 0 to about 1, turned by a random angle."""
    angle = random.uniform(0, math.pi)
    down, across = numpy.mgrid[0:side, 0:side] / side
    return (
        across * math.cos(angle) + down * math.sin(angle),
        down * math.cos(angle) - across * math.sin(angle),
    )


def _noise(random: Random, side: int) -> Image.Image:
    exponent = random.choice((0, 0.5, 1, 1.5, 2))
    if random.random() < 0.5:
        return in_colours(random, field(random, side, exponent))
    bands = [255 * field(random, side, exponent) for _ in range(3)]
    return Image.fromarray(numpy.stack(bands, axis=-1).astype(numpy.uint8))


def _leaves(random: Random, side: int) -> Image.Image:
    """Shapes over shapes: edges and areas are spread as they are in photographs."""
    picture = Image.new("RGB", (side, side), any_colour(random))
    pen = ImageDraw.Draw(picture)
    palette = [any_colour(random) for _ in range(random.randint(3, 12))]
    for _ in range(random.randint(25, 150)):
        radius = min(side / 2, side * 0.04 / max(0.05, random.random()))
        x, y = random.uniform(0, side), random.uniform(0, side)
        fill = tuple(
            min(255, max(0, level + random.randint(-25, 25))) for level in random.choice(palette)
        )
        if random.random() < 0.5:
            flat = random.uniform(0.4, 1)
            pen.ellipse((x - radius, y - radius * flat, x + radius, y + radius * flat), fill=fill)
        else:
            corners = [random.uniform(0, 2 * math.pi) for _ in range(random.randint(3, 6))]
            pen.polygon(
                [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in sorted(corners)],
                fill=fill,
            )
    if random.random() < 0.5:
        picture = Image.blend(picture, _noise(random, side), random.uniform(0.1, 0.5))
    return picture


def _pattern(random: Random, side: int) -> Image.Image:
    """Stripes or a chequered pattern, sharp or soft."""
    across, down = grid(random, side)
    waves = numpy.sin(2 * math.pi * random.uniform(2, 14) * across)
    if random.random() < 0.5:
        waves = waves * numpy.sin(2 * math.pi * random.uniform(2, 14) * down)
    if random.random() < 0.6:
        waves = numpy.sign(waves)
    return in_colours(random, waves / 2 + 0.5, 2)


def _fading(random: Random, side: int) -> Image.Image:
    """A strong fading from colour to colour, straight or round, perhaps with some noise."""
    across, down = grid(random, side)
    if random.random() < 0.4:
        across = numpy.hypot(across - random.random(), down - random.random())
    values = (across - across.min()) / numpy.ptp(across)
    if random.random() < 0.5:
        values = numpy.clip(values + 0.25 * (field(random, side, 1) - 0.5), 0, 1)
    return in_colours(random, values)


def _glow(random: Random, side: int) -> Image.Image:
    """Soft spots, light or dark, in a dim area, as in pictures out of focus; mostly grey."""
    down, across = numpy.mgrid[0:side, 0:side] / side
    values = numpy.full((side, side), random.uniform(0.1, 0.9))
    for _ in range(random.choice((1, 1, 2, 3))):
        flat, radius = random.uniform(0.6, 1.6), random.uniform(0.12, 0.5)
        x, y = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9)
        distance = numpy.hypot(across - x, (down - y) * flat) / radius
        soft = random.uniform(0.25, 0.9)  # how much of the radius the edge takes
        spot = numpy.clip((1 - distance) / soft + 0.5, 0, 1)
        level = random.choice((-1, 1)) * random.uniform(0.25, 0.7)
        values = numpy.clip(values + level * spot * spot * (3 - 2 * spot), 0, 1)
    values += random.uniform(0, 0.12) * (field(random, side, random.choice((0.5, 1, 1.5))) - 0.5)
    values = numpy.clip(values, 0, 1)
    if random.random() < 0.6:
        return Image.fromarray((255 * values).astype(numpy.uint8)).convert("RGB")
    return in_colours(random, values)


# --- text, screens, drawings ----------------------------------------------------------------------


@lru_cache(maxsize=256)
def font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of matplotlib's, or Pillow's own for None and where that is missing."""
    folder = package_folder("matplotlib/mpl-data/fonts/ttf")
    if name is None or folder is None or not (folder / name).exists():
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(folder / name), size)


def any_font(random: Random, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts of training."""
    return font(random.choice((None, *FONTS)), size)


def words(random: Random, count: int) -> str:
    """Return some words, a few of them made up, as a line of text."""
    made = (
        random.choice(NOUNS)
        if random.random() < 0.6
        else "".join(random.choices(string.ascii_letters + string.digits, k=random.randint(1, 9)))
        for _ in range(count)
    )
    return " ".join(made)


def write(
    random: Random,
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    ink: Colour,
    letters: Callable = any_font,
    size: int | None = None,
) -> None:
    """Fill a box (left, top, right, bottom) with lines of text."""
    left, top, right, bottom = box
    size = size or random.randint(6, max(7, int((bottom - top) / 3)))
    face, step = letters(random, size), size * random.uniform(1.1, 1.9)
    for line in range(max(1, int((bottom - top) / step))):
        text = words(random, 12)[: max(1, int((right - left) / (0.55 * size)))]
        if random.random() < 0.2:
            text = text[: random.randint(1, len(text))]
        pen.text((left, top + line * step), text, fill=ink, font=face)


def paper_and_ink(random: Random) -> tuple[Colour, Colour]:
    """Return two colours that stand out from each other, mostly dark on light."""
    light, dark = random.randint(200, 255), random.randint(0, 90)
    pair = [(light,) * 3, (dark,) * 3]
    if random.random() < 0.25:
        pair[0] = tuple(random.randint(170, 255) for _ in range(3))
    if random.random() < 0.25:
        pair[1] = tuple(random.randint(0, 130) for _ in range(3))
    if random.random() < 0.25:
        pair.reverse()
    return pair[0], pair[1]


def _page(random: Random, side: int) -> Image.Image:
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    margin = side * random.uniform(0.02, 0.15)
    kind = random.random()
    if kind < 0.25:  # a word or a letter, large
        pen, size = ImageDraw.Draw(picture), round(side * random.uniform(0.12, 0.6))
        text = random.choice(
            (random.choice(string.ascii_letters + string.digits), random.choice(NOUNS))
        )
        place = (random.uniform(0, side * 0.5), random.uniform(0, max(1, side - 1.2 * size)))
        pen.text(place, text, fill=ink, font=any_font(random, size))
    else:
        bottom = side * random.uniform(0.2, 0.6) if kind < 0.5 else side - margin
        write(random, ImageDraw.Draw(picture), (margin, margin, side - margin, bottom), ink)
    return picture


def _screen(random: Random, side: int) -> Image.Image:
    """Windows with a bar, text, buttons and pictures."""
    picture = Image.new("RGB", (side, side), any_colour(random))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.randint(1, 3)):
        left, top = random.uniform(-0.1, 0.4) * side, random.uniform(0, 0.4) * side
        right, bottom = left + random.uniform(0.4, 1) * side, top + random.uniform(0.35, 0.9) * side
        paper, ink = paper_and_ink(random)
        pen.rectangle((left, top, right, bottom), fill=paper, outline=ink)
        bar = side * random.uniform(0.04, 0.1)
        pen.rectangle((left, top, right, top + bar), fill=any_colour(random))
        for place in range(3):
            x = right - bar * (place + 0.8)
            pen.ellipse(
                (x, top + bar * 0.3, x + bar * 0.4, top + bar * 0.7), fill=any_colour(random)
            )
        inner = left + (right - left) * random.choice((0.05, 0.3))
        write(
            random,
            pen,
            (inner, top + bar * 1.5, right - bar, bottom - bar),
            ink,
            size=random.randint(6, 11),
        )
        for _ in range(random.randint(0, 4)):
            x, y = random.uniform(left, right), random.uniform(top, bottom)
            pen.rectangle(
                (x, y, x + side * 0.15, y + side * 0.06), fill=any_colour(random), outline=ink
            )
    return picture


def _chart(random: Random, side: int) -> Image.Image:
    """Bars, a line or a pie, mostly with axes and labels."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen, low, high = ImageDraw.Draw(picture), side * 0.12, side * 0.9
    colours = [any_colour(random) for _ in range(12)]
    kind, count = random.choice(("bars", "line", "pie")), random.randint(4, 12)
    if kind == "pie":
        angle, box = random.uniform(0, 360), (side * 0.15, side * 0.15, side * 0.8, side * 0.8)
        for part in range(count):
            pen.pieslice(box, angle, angle + 360 / count * 1.3, fill=colours[part])
            angle += 360 / count
        return picture
    heights = [random.uniform(0.05, 1) * (high - low) for _ in range(count)]
    step = (high - low) / count
    if kind == "bars":
        paints = colours if random.random() < 0.5 else colours[:1] * count
        for place, tall in enumerate(heights):
            x = low + place * step
            pen.rectangle((x, high - tall, x + step * 0.8, high), fill=paints[place])
    else:
        for colour in colours[: random.randint(1, 3)]:
            random.shuffle(heights)
            points = [(low + place * step, high - tall) for place, tall in enumerate(heights)]
            pen.line(points, fill=colour, width=max(1, side // 70))
    pen.line([(low, low), (low, high), (high, high)], fill=ink)
    for place in range(count):
        pen.text((low + place * step, high + 2), words(random, 1)[:3], fill=ink, font=font(None, 7))
    return picture


def _drawing(random: Random, side: int) -> Image.Image:
    """Strokes: straight, bent and scribbled."""
    paper, ink = paper_and_ink(random)
    picture = Image.new("RGB", (side, side), paper)
    pen = ImageDraw.Draw(picture)
    for _ in range(random.randint(2, 16)):
        colour = ink if random.random() < 0.7 else any_colour(random)
        width = max(1, round(side * random.uniform(0.006, 0.03)))
        x, y, reach = (
            random.uniform(0, side),
            random.uniform(0, side),
            side * random.uniform(0.1, 0.5),
        )
        kind = random.choice(("line", "arc", "scribble", "outline"))
        if kind == "arc":
            box = (x - reach, y - reach, x + reach, y + reach * random.uniform(0.2, 1))
            start = random.uniform(0, 360)
            pen.arc(box, start, start + random.uniform(60, 360), fill=colour, width=width)
        else:
            points = [(x, y)]
            for _ in range({"line": 1, "scribble": 12}.get(kind, random.randint(2, 6))):
                points.append(
                    (x + random.uniform(-reach, reach), y + random.uniform(-reach, reach))
                )
            if kind == "outline":
                points.append(points[0])
            pen.line(points, fill=colour, width=width, joint="curve")
    return picture


# --- shapes, but not as in the drawn world --------------------------------------------------------


def _outlined(random: Random, side: int) -> Image.Image:
    """The shapes of the drawn world as outlines."""
    scene = sample_scene(random, count=random.randint(1, 3))
    inner = random.uniform(0.62, 0.95)
    same = shade(random, random.choice(list(COLOURS))) if random.random() < 0.3 else None
    things: list[Thing] = []
    for thing in scene.things:
        # Black or white outlines are the most common in drawings.
        ink = (20, 20, 20) if scene.background != "black" else (240, 240, 240)
        rgb = same or (ink if random.random() < 0.4 else thing.rgb)
        things += [
            replace(thing, rgb=rgb),
            replace(thing, radius=thing.radius * inner, rgb=scene.ground),
        ]
    style = random.choice(("plain", "shaded"))
    return draw(replace(scene, things=tuple(things), style=style), side)


def _nothing(random: Random) -> Scene:
    """An empty scene, mostly on white, grey or black, as scenes with things in them are."""
    scene = sample_scene(random, count=0)
    return scene if scene.backdrop is None or random.random() < 0.15 else _nothing(random)


def crowd(random: Random, count: int) -> Scene:
    """Return a scene of too many things, in any order and colour, apart or touching."""
    scene = _nothing(random)
    largest, things = 0.62 / math.sqrt(count) * random.uniform(0.5, 1), []
    for _ in range(400):
        radius = largest * random.uniform(0.5, 1)
        x, y = (
            random.uniform(radius, scene.width - radius),
            random.uniform(radius, scene.height - radius),
        )
        apart = 0.95 if len(things) < 4 else 0.7
        if any(math.hypot(x - t.x, y - t.y) < apart * 1.2 * (radius + t.radius) for t in things):
            continue
        colour, shape = random.choice(list(COLOURS)), random.choice(SHAPES)
        rgb = shade(random, colour)
        if max(abs(a - b) for a, b in zip(rgb, scene.ground, strict=True)) > 60:
            things.append(Thing(shape, colour, "", x, y, radius, random.uniform(-20, 20), rgb))
        if len(things) == count:
            break
    return replace(scene, things=tuple(things))


def line_up(random: Random, count: int) -> Scene:
    """Return a row or a column of `count` things, or as many rows of them."""
    scene = _nothing(random)
    rows = random.choice((1, 1, 2, 3))
    cell = 1 / count
    things = []
    for row in range(rows):
        y = (row + 0.5) / rows
        for place in range(count):
            colour, shape = random.choice(list(COLOURS)), random.choice(SHAPES)
            x, radius = cell * (place + 0.5), cell * random.uniform(0.28, 0.42)
            spot = (x * scene.width, y * scene.height)
            things.append(Thing(shape, colour, "", *spot, radius * 0.95, 0, shade(random, colour)))
    if random.random() < 0.5:
        things = [
            replace(t, x=t.y * scene.width / scene.height, y=t.x * scene.height / scene.width)
            for t in things
        ]
    return replace(scene, things=tuple(things))


def _crowd(random: Random, side: int) -> Image.Image:
    count = random.choice((4, 4, 4, 4, 5, 5, 6, 7, 8, 10, 12))
    scene = line_up(random, min(count, 6)) if random.random() < 0.35 else crowd(random, count)
    if len(scene.things) < 4:
        return _crowd(random, side)
    return draw(scene, side)


def _collage(random: Random, side: int) -> Image.Image:
    """Things made of a texture, things on a texture, or both."""
    texture = random.choice((_noise, _leaves, _pattern, _photograph))(random, side)
    texture = texture.convert("RGB").resize((side, side))
    scene = sample_scene(random, count=random.choice((1, 1, 2, 3)))
    inside = random.random() < 0.5
    picture = Image.new("RGB", (side, side), scene.ground) if inside else texture
    for thing in scene.things:
        mask, corner = thing_mask(thing, side)
        # The whole texture in small, so that no thing happens to be of one colour.
        picture.paste(texture.resize(mask.size) if inside else thing.rgb, corner, mask)
    return picture


def _blot(random: Random, side: int) -> Image.Image:
    """One to three silhouettes with a wavy outline, filled with one colour."""
    scene = _nothing(random)
    picture = draw(replace(scene, width=1.0, height=1.0), side)
    pen = ImageDraw.Draw(picture)
    for _ in range(random.randint(1, 3)):
        waves = [
            (n, random.uniform(0.1, 0.4), random.uniform(0, 6.3))
            for n in random.sample(range(2, 9), 3)
        ]
        x, y = random.uniform(0.25, 0.75) * side, random.uniform(0.25, 0.75) * side
        radius, points = random.uniform(0.12, 0.35) * side, []
        for step in range(90):
            angle = 2 * math.pi * step / 90
            reach = radius * max(
                0.1, 1 + sum(high * math.sin(n * angle + at) for n, high, at in waves)
            )
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        pen.polygon(points, fill=random.choice((any_colour(random), (0, 0, 0), (255, 255, 255))))
    return picture


# How often each is drawn, and by what.
KINDS: dict[str, tuple[int, Callable[[Random, int], Image.Image]]] = {
    "photograph": (28, _photograph),
    "noise": (8, _noise),
    "leaves": (6, _leaves),
    "pattern": (6, _pattern),
    "fading": (4, _fading),
    "glow": (8, _glow),
    "page": (10, _page),
    "screen": (7, _screen),
    "chart": (5, _chart),
    "drawing": (8, _drawing),
    "outlined": (12, _outlined),
    "crowd": (24, _crowd),
    "collage": (6, _collage),
    "blot": (4, _blot),
}
VARYING = ("photograph", "noise", "leaves", "pattern", "fading", "collage", "blot")
