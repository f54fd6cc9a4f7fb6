"""open_image(): upright, on white, RGB and 8 bit, from files and from arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from picture_samples import BLACK, BLUE, GREEN, RED, WHITE, YELLOW, corner_colours, corners, encoded
from PIL import Image

from llava_nb.errors import ImageError
from llava_nb.images import open_image

GREY = (128, 128, 128)
HALF_RED = (255, 127, 127)


def mode_samples() -> dict[str, tuple[Image.Image, list[tuple[int, int, int]]]]:
    """A picture of two pixels in each mode, and the two colours it must give."""
    clear_red = Image.new("RGBA", (2, 1), (*RED, 255))
    clear_red.putpixel((1, 0), (*RED, 0))
    grey = Image.new("L", (2, 1), 128)
    samples = {
        mode: (Image.new(mode, (2, 1), value), [colour] * 2)
        for mode, value, colour in [
            ("1", 1, WHITE),
            ("L", 128, GREY),
            ("CMYK", (0, 255, 255, 0), RED),
            ("RGB", RED, RED),
            ("I;16", 128 * 257, GREY),
            ("I;16B", 128 * 257, GREY),
            ("RGBX", (*RED, 7), RED),
        ]
    }
    samples["YCbCr"] = (Image.new("RGB", (2, 1), WHITE).convert("YCbCr"), [WHITE] * 2)
    samples["HSV"] = (Image.new("RGB", (2, 1), RED).convert("HSV"), [RED] * 2)
    samples["RGBA"] = (clear_red, [RED, WHITE])
    samples["RGBa"] = (clear_red.convert("RGBa"), [RED, WHITE])
    samples["half"] = (Image.new("RGBA", (2, 1), (*RED, 128)), [HALF_RED] * 2)
    samples["LA"] = (Image.merge("LA", [grey, clear_red.getchannel("A")]), [GREY, WHITE])
    samples["La"] = (samples["LA"][0].convert("La"), [GREY, WHITE])
    palette = clear_red.convert("RGB").quantize(4)
    samples["P"] = (palette, [RED, RED])
    samples["P, one colour clear"] = (palette.copy(), [WHITE, WHITE])
    samples["P, one colour clear"][0].info["transparency"] = palette.getpixel((0, 0))
    samples["P, alpha per colour"] = (palette.copy(), [HALF_RED] * 2)
    samples["P, alpha per colour"][0].info["transparency"] = bytes([128] * 256)
    samples["P, RGBA palette"] = (clear_red.quantize(4), [RED, WHITE])
    samples["PA"] = (palette.convert("PA"), [RED, RED])
    samples["L, one grey clear"] = (grey.copy(), [WHITE, WHITE])
    samples["L, one grey clear"][0].info["transparency"] = 128
    samples["I;16, one grey clear"] = (Image.new("I;16", (2, 1), 300), [WHITE, WHITE])
    samples["I;16, one grey clear"][0].info["transparency"] = 300
    return samples


@pytest.mark.parametrize("mode", mode_samples())
def test_every_mode_becomes_rgb_on_white(mode):
    picture, expected = mode_samples()[mode]
    result = open_image(picture)
    assert result.mode == "RGB"
    found = [result.getpixel((x, 0)) for x in range(2)]
    worst = np.abs(np.array(found) - np.array(expected)).max()
    assert worst <= 1, f"{mode} gave {found}, expected {expected}"


@pytest.mark.parametrize(
    ("mode", "values", "greys"),
    [
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 128 * 257, 65535], [0, 128, 255]),
        ("I", [-100, 0, 100], [0, 128, 255]),
        ("I", [0, 1 << 30, 1 << 31], [0, 128, 255]),
        ("F", [0, 0.5, 1], [0, 128, 255]),
        ("F", [0, 100, 255], [0, 100, 255]),
        ("F", [-1, 0, 1], [0, 128, 255]),
        ("F", [7, 7, float("nan")], [7, 7, 0]),
        ("F", [-3, -3, -3], [0, 0, 0]),
    ],
)
def test_deep_greys_keep_their_usual_scale(mode, values, greys):
    kind = "int32" if mode == "I" else "float32"
    picture = Image.fromarray(np.array([values]).clip(-(2**31), 2**31 - 1).astype(kind))
    assert picture.mode == mode
    assert np.asarray(open_image(picture))[0, :, 0].tolist() == greys


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_file(kind):
    values = np.array([[0, 128 * 257, 65535]], "uint16")
    result = open_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_transparent_file_is_white(kind):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert open_image(encoded(clear, kind)).getpixel((4, 4)) == WHITE


# How each EXIF orientation (TIFF 6.0, tag 274) stores an upright picture.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_upright(kind, orientation):
    turn = STORED[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    result = open_image(encoded(stored, kind, exif=exif, **options))
    worst = np.abs(np.array(corner_colours(result)) - [RED, GREEN, BLUE, YELLOW]).max()
    assert result.info == {}, "EXIF data, such as the place of a photo, went along"
    assert result.size == (64, 48) and worst <= 8, f"{corner_colours(result)}"
    assert open_image(result).tobytes() == result.tobytes(), "opened again, it was turned again"


def test_damaged_exif_does_not_lose_the_picture():
    assert open_image(encoded(corners(), "JPEG", exif=b"Exif\0\0MM nonsense")).size == (64, 48)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    red, green, _ = open_image(data).getpixel((4, 4))
    assert red > 240 > 15 > green


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_the_picture_given_stays_as_it_is(mode):
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.open(io.BytesIO(encoded(mode_samples()[mode][0], exif=exif)))
    before = picture.mode, picture.size, picture.tobytes(), dict(picture.info)
    result = open_image(picture)
    result.paste(BLACK, (0, 0, *result.size))
    assert (picture.mode, picture.size, picture.tobytes(), dict(picture.info)) == before
    assert picture.getexif()[274] == 6


GRADIENT = np.linspace(0, 255, 12 * 10 * 3).round().astype("uint8").reshape(12, 10, 3)


@pytest.mark.parametrize(
    "array",
    [
        GRADIENT,
        GRADIENT.astype("uint16") * 257,
        (GRADIENT.astype("uint16") * 257).astype(">u2"),
        GRADIENT / 255,
        (GRADIENT / 255).astype("float16"),
        GRADIENT[:, ::-1][:, ::-1],
    ],
    ids=["uint8", "uint16", "big-endian", "float64", "float16", "view"],
)
def test_array_values(array):
    worst = np.abs(np.asarray(open_image(array)).astype(int) - GRADIENT).max()
    assert worst == 0, f"the worst pixel is off by {worst}"


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1)])
@pytest.mark.parametrize("kind", ["uint8", "bool", "uint16", "float32"])
def test_grey_array(shape, kind):
    full = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    picture = open_image(np.full(shape, full, dtype=kind))
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((10, 12), "RGB", WHITE)


def test_array_with_alpha_is_flattened_on_white():
    assert open_image(np.zeros((4, 4, 4), "uint8")).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 12, 10), "uint8"), r"3 x 12 x 10.*transpose\(1, 2, 0\)"),
        (np.zeros((2, 12, 10, 3), "uint8"), "2 x 12 x 10 x 3"),
        (np.zeros((12, 10, 2), "uint8"), "12 x 10 x 2"),
        (np.zeros((0, 10, 3), "uint8"), "no pixels"),
        (np.array(1.0), "a single number"),
        (np.zeros((4, 4), "int64"), r"int64.*astype\('uint8'\)"),
        (np.zeros((4, 4), object), "object"),
        (np.full((4, 4), 200.0), r"200 to 200.*array / 255"),
        (np.full((4, 4), -1.0), "-1 to -1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.broadcast_to(np.uint8(0), (20_000, 10_000)), r"200\.0 megapixels"),
    ],
)
def test_array_that_is_no_picture(array, message):
    with pytest.raises(ImageError, match=message):
        open_image(array)
