"""open_image(): what it takes, what it makes of it, and what it says where there is no picture."""

from __future__ import annotations

import base64
import io
import os
import re
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFile

from llava_nb import ImageError, LlavaNbError, example_picture, open_image
from llava_nb.images import data_uri

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, GREY, HALF_RED = (255, 255, 255), (128, 128, 128), (255, 127, 127)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(size=(64, 48)) -> Image.Image:
    """Four colours that tell every turn and mirroring apart."""
    picture = Image.new("RGB", (2, 2))
    picture.putdata([RED, GREEN, BLUE, YELLOW])
    return picture.resize(size, Image.Resampling.NEAREST)


def corner_colours(picture: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = picture.width - 1, picture.height - 1
    return [picture.getpixel(at) for at in [(0, 0), (right, 0), (0, bottom), (right, bottom)]]


def png_chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_of(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these rows, each with its filter byte, as the standard has depth and colour type."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def huge_png(width: int, height: int) -> bytes:
    """A true black 1-bit PNG, made without holding its pixels."""
    return png_of(width, height, bytes((1 + (width + 7) // 8) * height), 1, 0)


PNG = encoded(corners())


def entry_7(name: str, content: bytes) -> dict:
    return {name: {"metadata": {"name": name, "size": len(content)}, "content": content}}


def entry_8(name: str, content: bytes) -> dict:
    return {"name": name, "size": len(content), "content": memoryview(content)}


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype("uint8"))

# What it takes.

BASE64 = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{BASE64}"
OTHER = encoded(Image.new("RGB", (5, 5)))


@pytest.mark.parametrize(
    "source",
    [
        *(PNG, bytearray(PNG), memoryview(PNG), URI, Image.open(io.BytesIO(PNG))),
        f" DATA:image/png;charset=utf-8;BASE64,{BASE64[:40]}\n{BASE64[40:].rstrip('=')} ",
        "data:," + "".join(f"%{byte:02x}" for byte in PNG),
        entry_7("cat.png", PNG),
        entry_7("cat.png", PNG)["cat.png"],
        entry_7("content", PNG),
        entry_7("other.png", OTHER) | entry_7("cat.png", PNG),  # the last of several
        (entry_8("other.png", OTHER), entry_8("cat.png", PNG)),
        [entry_8("cat.png", PNG)],
        entry_8("cat.png", PNG),
        {"content": PNG, "metadata": 3},
    ],
)
def test_source(source):
    assert corner_colours(open_image(source)) == [RED, GREEN, BLUE, YELLOW]


def test_path_of_any_kind_and_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("a b:é.png", "new\nline.png", "=cmd|' C!A0.png", "n" * 240 + ".png", "\udcff.png"):
        (tmp_path / name).write_bytes(PNG)
        for path in (tmp_path / name, str(tmp_path / name), f"~/{name}"):
            assert open_image(path).size == (64, 48)


@pytest.mark.parametrize(("asked", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_name_in_another_unicode_form_is_found_folder_by_folder(tmp_path, asked, there):
    names = ("사진", "Ångström", "한글 é.png")
    asked, there = ([unicodedata.normalize(form, n) for n in names] for form in (asked, there))
    tmp_path.joinpath(*there[:2]).mkdir(parents=True)
    tmp_path.joinpath(*there).write_bytes(PNG)
    assert open_image(tmp_path.joinpath(*asked)).size == (64, 48)
    with pytest.raises(ImageError, match="There is no file"):
        open_image(tmp_path.joinpath(*asked[:2], "é없음.png"))


def test_example_picture_by_name_and_as_a_thumbnail():
    assert open_image(example_picture()).mode == "RGB"
    assert open_image(data_uri(open_image(PNG), 32)).size == (32, 24), "as a thumbnail"
    for name in ("four_shapes.png", None, np.zeros(3)):
        with pytest.raises(LlavaNbError, match="no bundled picture .*there are: one_shape.png, "):
            example_picture(name)


# Every format, and what else its file holds.


WRITTEN = "BMP DDS DIB GIF ICNS ICO IM JPEG JPEG2000 PCX PNG PPM SGI TGA TIFF WEBP".split()
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 1, 2, 8, 3) + bytes(14)
PSD += b"\xff\xff" + bytes(4)
QOI = b"qoif" + struct.pack(">IIBB", 2, 1, 3, 0) + b"\xfe\xff\0\0\xc0" + bytes(7) + b"\1"


@pytest.mark.parametrize("kind", [*WRITTEN, PSD, QOI])
def test_format(kind):
    data = encoded(Image.new("RGB", (64, 64), RED), kind) if isinstance(kind, str) else kind
    red, green, blue = open_image(data).getpixel((1, 0))
    assert red > 240 and green < 15 and blue < 15


def test_format_of_a_plugin_opens_once_it_is_registered(monkeypatch):
    jpeg_xl = b"\xff\x0a" + bytes(82)
    with pytest.raises(ImageError, match="is a JPEG XL picture: pip install pillow-jxl-plugin"):
        open_image(jpeg_xl)

    class Plugin(ImageFile.ImageFile):
        format = "JXL"

        def _open(self):
            self._size, self._mode, self.tile = (64, 48), "RGB", []

        def load(self):
            self.im = Image.new("RGB", self.size, RED).im

    Image.init()
    monkeypatch.setattr(Image, "OPEN", Image.OPEN | {"JXL": (Plugin, lambda b: b[:2] == b"\xff\n")})
    monkeypatch.setattr(Image, "ID", [*Image.ID, "JXL"])
    assert open_image(jpeg_xl).getpixel((5, 5)) == RED


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    red, green, _ = open_image(data).getpixel((4, 4))
    assert red > 240 > 15 > green


def in_png(*chunks: bytes, at: int = 33) -> bytes:
    data = encoded(NOISE)
    return data[:at] + b"".join(chunks) + data[at:]


def in_jpeg(*segments: tuple[int, bytes]) -> bytes:
    parts = [bytes([0xFF, n]) + struct.pack(">H", len(body) + 2) + body for n, body in segments]
    data = encoded(NOISE, "JPEG", quality=95)
    return data[:2] + b"".join(parts) + data[2:]


def in_tiff(tag: int, kind: int, count: int, value: int) -> bytes:
    data = encoded(NOISE, "TIFF", tiffinfo={270: "a description"})
    at = data.index(struct.pack("<HH", 270, 2))
    return data[:at] + struct.pack("<HHII", tag, kind, count, value) + data[at + 12 :]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


LONG_TEXT = zlib.compress(b"x" * 2**21)
WEBP = encoded(NOISE, "WEBP", lossless=True, xmp=b"<x/>" * 100, exif=b"II*\0\x08\0\0\0\0\0")
SIDE_DATA = {
    "PNG, 2 MiB of text": in_png(png_chunk(b"zTXt", b"a\0\0" + LONG_TEXT)),
    "PNG, 2 MiB of profile": in_png(png_chunk(b"iCCP", b"a\0\0" + LONG_TEXT)),
    "PNG, 70 texts": in_png(*[png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 70),
    "PNG, wrong checksum": in_png(png_chunk(b"tEXt", b"a\0b", 7)),
    "PNG, wrong length": in_png(b"\x7f\xff\xff\xfftEXtabc"),
    "PNG, text after the pixels": in_png(png_chunk(b"iTXt", b"a", 7), at=-12),
    "PNG, cut off in a text": in_png(png_chunk(b"tEXt", bytes(99)), at=-12)[:-60],
    "PNG, no end": in_png()[:-12],
    "PNG, animation without frames": in_png(png_chunk(b"acTL", b"1")),
    "JPEG, damaged EXIF": in_jpeg((0xE1, b"Exif\0\0MM nonsense")),
    "JPEG, damaged profile": in_jpeg((0xE2, b"ICC_PROFILE\0\1")),
    "JPEG, damaged list of pictures": in_jpeg((0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff")),
    "JPEG, damaged Photoshop data": in_jpeg((0xED, b"Photoshop 3.0\x008BIM\x03\xed\5abc\xff\xff")),
    "JPEG, short JFIF": in_jpeg((0xE0, b"JFIF")),
    "WebP, cut off in its XMP": WEBP[:-50],
    "WebP, wrong length": WEBP[:4] + bytes(4) + WEBP[8:],
    "TIFF, description far away": in_tiff(270, 2, 99_999_999, 99_999_999),
    "TIFF, EXIF that is no directory": in_tiff(34665, 4, 1, 0x7FFFFFFF),
    "TIFF, XMP that is a number": in_tiff(700, 13, 1, 5),
}


@pytest.mark.parametrize("case", SIDE_DATA)
def test_side_data_refuse_no_picture(case):
    expected = open_image(encoded(NOISE, "JPEG", quality=95)) if case[0] == "J" else NOISE
    assert open_image(SIDE_DATA[case]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_jpeg_without_its_end_marker_opens_if_all_pixels_are_there(options):
    whole = encoded(NOISE, "JPEG", quality=90, **options)
    expected = open_image(whole).tobytes()
    for data in (whole[:-2], whole[:-1], whole[:-2] + bytes(100)):
        assert open_image(data).tobytes() == expected
        assert open_image(Image.open(io.BytesIO(data))).tobytes() == expected
    restarts = [n for n in range(len(whole)) if whole[n] == 0xFF and 0xD0 <= whole[n + 1] <= 0xD7]
    scans = [n for n in range(700, len(whole)) if whole[n : n + 2] == b"\xff\xda"]
    for cut in (*range(3, 9), 100, 1000, *(len(whole) - n for n in restarts[-2:] + scans[-2:])):
        with pytest.raises(ImageError, match="the JPEG file is cut off or damaged"):
            open_image(whole[:-cut])


# Upright, on white, RGB, 8 bits.

# How each EXIF orientation (TIFF 6.0, tag 274) stores an upright picture.
STORED = dict(enumerate([None, 0, 3, 1, 5, 2, 6, 4], start=1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_upright(kind, orientation):
    turn = STORED[orientation]
    stored = corners() if turn is None else corners().transpose(Image.Transpose(turn))
    options = {"quality": 95} if kind == "JPEG" else {}
    result = open_image(encoded(stored, kind, exif=exif_of(orientation), **options))
    worst = np.abs(np.array(corner_colours(result)) - [RED, GREEN, BLUE, YELLOW]).max()
    assert result.info == {}, "EXIF data, such as the place of a photo, went along"
    assert result.size == (64, 48) and worst <= 8, f"{corner_colours(result)}"
    assert open_image(result).tobytes() == result.tobytes(), "opened again, it was turned again"


TURN = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
DAMAGED_DATE = b"\2\0" + TURN + struct.pack("<HHII", 306, 5, 1, 38) + bytes(12)
TOO_MANY = b"\xff\xff" + struct.pack("<HHII", 271, 2, 99_999_999, 2**31 - 1) + TURN


@pytest.mark.parametrize("rest", [DAMAGED_DATE, TOO_MANY, b"\1\0" + TURN])  # cut off
def test_turn_is_read_whatever_state_the_rest_of_the_exif_is_in(rest):
    exif = b"II*\0\x08\0\0\0" + rest
    for data in (
        in_jpeg((0xE1, b"Exif\0\0" + exif)),
        in_jpeg((0xE1, b"Exif\0\0" + exif), (0xE0, b"JFIF")),
        in_png(png_chunk(b"eXIf", exif)),
        in_png(png_chunk(b"eXIf", exif, 7)),
        encoded(NOISE, "WEBP", exif=exif),
    ):
        assert open_image(data).size == (48, 64)


def mode_samples() -> dict[str, tuple[Image.Image, list[tuple[int, int, int]]]]:
    """A picture of two pixels in each mode, and the two colours it must give."""
    one_colour = [
        *(("1", 1, WHITE), ("L", 128, GREY), ("CMYK", (0, 255, 255, 0), RED), ("RGB", RED, RED)),
        *(("I;16", 128 * 257, GREY), ("I;16B", 128 * 257, GREY), ("RGBX", (*RED, 7), RED)),
        *(("LAB", (255, 128, 128), WHITE), ("RGBA", (*RED, 128), HALF_RED)),
        *(("YCbCr", (255, 128, 128), WHITE), ("HSV", (0, 255, 255), RED)),
    ]
    samples = {mode: (Image.new(mode, (2, 1), value), [rgb] * 2) for mode, value, rgb in one_colour}
    grey, clear_red = Image.new("L", (2, 1), 128), Image.new("RGBA", (2, 1), (*RED, 255))
    clear_red.putpixel((1, 0), (*RED, 0))
    palette = clear_red.convert("RGB").quantize(4)

    def with_key(picture: Image.Image, key: int | bytes) -> Image.Image:
        picture = picture.copy()
        picture.info["transparency"] = key
        return picture

    grey_alpha = Image.merge("LA", [grey, clear_red.getchannel("A")])
    return samples | {
        "RGBA, one clear": (clear_red, [RED, WHITE]),
        "RGBa": (clear_red.convert("RGBa"), [RED, WHITE]),
        "LA": (grey_alpha, [GREY, WHITE]),
        "La": (grey_alpha.convert("La"), [GREY, WHITE]),
        "P": (palette, [RED, RED]),
        "P, one colour clear": (with_key(palette, palette.getpixel((0, 0))), [WHITE, WHITE]),
        "P, alpha per colour": (with_key(palette, bytes([128] * 256)), [HALF_RED] * 2),
        "P, RGBA palette": (clear_red.quantize(4), [RED, WHITE]),
        "PA": (palette.convert("PA"), [RED, RED]),
        "L, one grey clear": (with_key(grey, 128), [WHITE, WHITE]),
        "I;16, one grey clear": (with_key(Image.new("I;16", (2, 1), 300), 300), [WHITE, WHITE]),
    }


@pytest.mark.parametrize("mode", mode_samples())
def test_every_mode_becomes_rgb_on_white_and_what_was_given_stays(mode):
    picture, expected = mode_samples()[mode]
    before = picture.mode, picture.tobytes(), dict(picture.info)
    result = open_image(picture)
    assert result.mode == "RGB" and (picture.mode, picture.tobytes(), picture.info) == before
    found = [result.getpixel((x, 0)) for x in range(2)]
    worst = np.abs(np.array(found) - np.array(expected)).max()
    assert worst <= 1, f"{mode} gave {found}, expected {expected}"


@pytest.mark.parametrize(
    ("kind", "values", "greys"),
    [("int32", [0, 100, 255], [0, 100, 255]), ("int32", [-100, 0, 100], [0, 128, 255]),
     ("int32", [5_000_000, 5_000_100, 5_000_200], [0, 128, 255]),
     ("float32", [0, 0.5, 1], [0, 128, 255]), ("float32", [0.125, 0.1875, 0.25], [0, 128, 255]),
     ("float32", [7, 7, float("nan")], [7, 7, 0]), ("float32", [-3, -3, -3], [0, 0, 0]),
     ("uint16", [0, 128 * 257, 65535], [0, 128, 255]),
     ("uint16", [0, 2048, 4095], [0, 128, 255]),  # the 12 bits of a microscope or an X-ray
     ("uint16", [30_000, 30_500, 31_000], [0, 128, 255])],
)  # fmt: skip
def test_deep_greys_are_scaled_by_the_range_they_use(kind, values, greys):
    picture = Image.fromarray(np.array([values], kind))
    sources = [picture, encoded(picture, "TIFF")]
    sources += [np.array([values], kind), encoded(picture)] if kind == "uint16" else []
    for source in sources:
        assert np.asarray(open_image(source))[0, :, 0].tolist() == greys


@pytest.mark.parametrize("most", [4095, 65535])
def test_16_bit_colours_of_which_12_are_used_are_not_black(most):
    rows = b"\0" + struct.pack(">6H", most, 0, most // 2, 0, most, 0)
    found = np.asarray(open_image(png_of(2, 1, rows, depth=16)))[0].tolist()
    assert np.abs(np.array(found) - [[255, 0, 127], [0, 255, 0]]).max() <= 9, found


GRADIENT = np.linspace(0, 255, 12 * 10 * 3).round().astype("uint8").reshape(12, 10, 3)
ARRAYS = {
    "uint8": GRADIENT,
    "uint16": GRADIENT.astype("uint16") * 257,
    "12 bits": GRADIENT.astype("uint16") * 16,
    "big-endian": (GRADIENT.astype("uint16") * 257).astype(">u2"),
    "float64": GRADIENT / 255,
    "float16": (GRADIENT / 255).astype("float16"),
    "view": GRADIENT[:, ::-1][:, ::-1],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_values(kind):
    assert (np.asarray(open_image(ARRAYS[kind])) == GRADIENT).all()


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 4)])
@pytest.mark.parametrize("kind", ["uint8", "bool", "uint16", "float32"])
def test_array_of_one_colour(shape, kind):
    full = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    picture = open_image(np.full(shape, full, dtype=kind))
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((10, 12), "RGB", WHITE)
    assert open_image(np.zeros((4, 4, 4), kind)).getpixel((0, 0)) == WHITE  # all clear


# Damage and limits.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_cut_picture_raises(kind, share, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as many notebooks do
    whole = encoded(NOISE, kind)
    with pytest.raises(ImageError, match="cut off or damaged.*again"):
        open_image(whole[: max(16, int(share * len(whole)))])
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "the notebook's own setting was not put back"


@pytest.mark.parametrize("error", [OSError, SyntaxError, struct.error, EOFError, MemoryError])
def test_every_decoder_error_is_an_image_error(monkeypatch, error):
    picture = Image.open(io.BytesIO(PNG))
    monkeypatch.setattr(type(picture), "load", Mock(side_effect=error("broken inside")))
    for source, name in ((picture, "The PIL image"), (PNG, "The bytes given")):
        with pytest.raises(ImageError, match=rf"{name} .*\(broken inside\).*again"):
            open_image(source)


@pytest.mark.parametrize("seed", range(20))
def test_scrambled_bytes_give_a_picture_or_an_image_error(seed):
    random = np.random.default_rng(seed)
    data = bytearray(encoded(corners(), ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "TGA"][seed % 6]))
    for place in random.integers(0, len(data), 12):
        data[place] = random.integers(0, 256)
    try:
        assert open_image(data).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("The bytes given")


def test_200_megapixels_are_refused_before_decoding(tmp_path, monkeypatch):
    data = huge_png(20_000, 10_000)
    (tmp_path / "huge.png").write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # or Pillow would refuse it first
    icon = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(data), 22) + data
    array = np.broadcast_to(np.uint8(0), (20_000, 10_000))
    with Image.open(io.BytesIO(data)) as picture:
        for source in (data, tmp_path / "huge.png", [entry_8("a", data)], picture, icon, array):
            with pytest.raises(ImageError, match=r"200\.0 megapixels; the limit is 100.*max_pix"):
                open_image(source)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(NOISE, "WEBP"), "WEBP"),
        (encoded(NOISE, "JPEG", progressive=True, subsampling=0), "JPEG in several scans"),
        (encoded(NOISE, "TIFF", compression="tiff_lzw"), "TIFF in one strip"),
        (encoded(Image.new("RGB", (1, 64 * 48))), "PNG of 1 x 3072 pixels"),
    ],
)
def test_where_decoding_takes_more_memory_the_limit_is_smaller(data, kind):
    with pytest.raises(ImageError, match=f"for {kind}.*, which takes more memory") as caught:
        open_image(data, max_pixels=64 * 48)
    told = int(re.search(r"max_pixels=([\d_]+)", str(caught.value))[1])
    assert told > 64 * 48 and open_image(data, max_pixels=told).mode == "RGB"


def test_scans_and_strips_decide_between_the_smaller_and_the_whole_limit():
    data, scan = encoded(NOISE, "JPEG", subsampling=0), b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    with pytest.raises(ImageError, match="for JPEG in several scans"):  # a scan a colour
        open_image(data[: data.index(b"\xff\xda")] + scan, max_pixels=64 * 48)
    picture = corners((64, 480))
    strips = encoded(picture, "TIFF", compression="tiff_lzw", strip_size=3000)
    for data in (encoded(picture, "JPEG", progressive=True), strips):
        assert open_image(data, max_pixels=64 * 480).size == (64, 480)


MEASURE = """
import re, sys
from llava_nb import open_image
def peak():  # of this program; ru_maxrss begins with that of what started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20  # GiB
before = peak()
print(*open_image(sys.argv[1]).size, peak() - before)
"""


DEFLATE = {"compression": "tiff_adobe_deflate"}


def large_png(size):
    data = png_of(*size, bytes((1 + 4 * size[0]) * size[1]), colour=6)  # RGBA
    return data[:33] + png_chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0" + TURN) + data[33:]


def large(kind, **options):
    return lambda size: encoded(Image.new("RGB", size), kind, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("make", "size", "comes_as", "gib"),
    [(large_png, (7000, 7000), (7000, 7000), 0.5),
     (large_png, (9000, 7000), (3500, 4500), 0.5),
     # as a whole 0.4; the last, turned first, 0.42
     (large("JPEG", progressive=True, subsampling=0), (6000, 7000), (3000, 3500), 0.35),
     (large("TIFF", strip_size=2**31 - 1, **DEFLATE), (8000, 8500), (2667, 2834), 0.5),
     (large("TIFF", exif=exif_of(6), **DEFLATE), (7000, 8000), (4000, 3500), 0.33)],
)  # fmt: skip
def test_largest_pictures_take_at_most_half_a_gibibyte(tmp_path, make, size, comes_as, gib):
    (tmp_path / "large").write_bytes(make(size))
    command = [sys.executable, "-c", MEASURE, tmp_path / "large"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (int(said[0]), int(said[1])) == comes_as
    assert float(said[2]) < gib, f"{said[2]} GiB"


def test_max_pixels_is_exact_and_may_be_above_pillows_own_limit(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert open_image(PNG, max_pixels=64 * 48).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 10 and not recwarn.list
    with pytest.raises(ImageError, match="megapixels"):
        open_image(PNG, max_pixels=64 * 48 - 1)


def test_max_bytes_holds_for_every_source(tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)
    for source in (PNG, tmp_path / "cat.png", entry_8("cat.png", PNG), URI):
        assert open_image(source, max_bytes=len(PNG)).size == (64, 48)
        with pytest.raises(ImageError, match=f"the limit is 0.0 MiB.*max_bytes={len(PNG)}"):
            open_image(source, max_bytes=len(PNG) - 1)


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "timeout", "max_redirects"])
@pytest.mark.parametrize("value", ["5", None, -1, float("nan"), float("inf"), [1]])
def test_limit_that_is_no_number(name, value):
    with pytest.raises(ImageError, match=f"^{name} is .*: give a number from 0 on"):
        open_image(PNG, **{name: value})


# What it says.


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_what_is_no_file_with_a_picture(tmp_path):
    for name in ("Cat.JPG", "cat2.jpg", "zebra.png", "empty.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "dangling.gif").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        ("cat.jpg", "no file .*Did you mean 'Cat.JPG' or 'cat2.jpg'"),
        ("dog.jpeg", "Check the name, or upload"),
        ("pictures/cat.jpg", "folder does not exist either"),
        ("dangling.gif", "There is no file"),
        (".", r"is a folder.*caption_folder\(llava, "),
        ("empty.jpg", r"empty.jpg' is empty \(0 bytes\)"),
        ("loop.png", "cannot be read .Too many levels of symbolic links"),
        ("pipe", "device or a pipe"),  # it would be waited for
    ]:
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / path)


def test_closed_picture_is_said_to_be_closed(tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)
    with Image.open(tmp_path / "cat.png") as by_path, open(tmp_path / "cat.png", "rb") as file:
        by_file = Image.open(file)
    by_hand = Image.open(io.BytesIO(PNG))
    by_hand.load()
    by_hand.close()
    for picture in (by_path, by_file, by_hand):
        with pytest.raises(ImageError, match="The PIL image is closed, so its pixels cannot"):
            open_image(picture)
    with Image.open(tmp_path / "cat.png") as loaded:
        loaded.load()
    assert open_image(loaded).size == (64, 48)


class Unhelpful:
    def __fspath__(self):
        raise KeyError("path")


CLOSED = io.BytesIO(PNG)
CLOSED.close()
RELEASED = memoryview(PNG)
RELEASED.release()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        *((empty, "nothing arrived.*over the upload limit.*path or an") for empty in ((), {}, b"")),
        (entry_8("cat.png", b""), "The upload 'cat.png': nothing arrived"),
        ("", "empty text"),
        ("nul\0.png", "cannot be read .embedded null byte"),
        ("\ud83d.png", "cannot be read .*surrogates not allowed"),
        ("x" * 5000, r"x\.\.\.x.* cannot be read"),
        ("~nobody_here/cat.png", "cannot be read .Could not determine home"),
        ("www.example.org/cat.png", "write https:// in front"),
        ("ftp://example.org/cat.png", "ftp: address; only http and https"),
        ("file:///content/cat.png", "without 'file://'"),
        (Path("https://example.org/cat.png"), "address as text, not as a Path"),
        ("javascript:alert(1)", "javascript: address"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,", "no content after the comma"),
        ("data:image/png;base64,?!*", "not hold valid base64"),
        ("data:image/png;base64,\ud800", "not hold valid base64 or text"),
        ("data:text/plain,hello", "The data URI is not a picture.*begins with the text .hello"),
        (None, "cannot use None: give a path, an http.*Choose a picture first"),
        (3, "cannot use a value of type int: give a path"),
        (["a.png", "b.png"], "one picture at a time.*ask_batch"),
        ((name for name in ["a.png"]), "type generator.*one picture at a time"),
        ({"a": 1}, "cannot use a value of type dict"),
        (io.BytesIO(PNG), r"give file\.read\(\)"),
        (CLOSED, "closed: give its path"),
        (RELEASED, "type memoryview .ValueError: operation forbidden on released"),
        (Unhelpful(), "Unhelpful .KeyError: 'path'"),
        (Image.Image(), "no pixels"),
        (np.zeros((3, 12, 10), "uint8"), r"3 x 12 x 10.*transpose\(1, 2, 0\)"),
        (np.zeros((2, 12, 10, 3), "uint8"), "2 x 12 x 10 x 3"),
        (np.zeros((12, 10, 2), "uint8"), "12 x 10 x 2"),
        (np.zeros((0, 10, 3), "uint8"), "no pixels"),
        (np.array(1.0), "a single number"),
        (np.zeros((4, 4), "int64"), r"int64.*astype\('uint8'\)"),
        (np.zeros((4, 4), object), "object"),
        (np.zeros((4, 4), "datetime64[s]"), "datetime64"),
        (np.full((4, 4), 200.0), r"200 to 200.*array / 255"),
        (np.full((4, 4), np.nan), "nan"),
    ],
)
def test_source_that_is_no_picture(source, message):
    with pytest.raises(ImageError, match=message) as caught:
        open_image(source)
    assert len(str(caught.value)) < 500


def test_widget_and_tensor_are_told_what_of_them_is_the_picture():
    torch, widgets = pytest.importorskip("torch"), pytest.importorskip("ipywidgets")
    upload = widgets.FileUpload()
    told = [(upload.value, "nothing arrived"), (upload, r"give widget\.value")]
    for source, message in [*told, (torch.zeros(3, 4, 4), r"give tensor\.cpu\(\)\.numpy\(\)")]:
        with pytest.raises(ImageError, match=message):
            open_image(source)


def test_foreign_text_in_messages_stays_plain(tmp_path):
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "\x1b[2J\u202egnp.exe<b>\n")
    assert str(caught.value).isprintable() and "<b>" in str(caught.value)


HEIC = b"\0\0\0\x18ftypheic" + bytes(20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf\n<!DOCTYPE html><p>", "is a web page, not a picture: open it in a browser"),
        (b"<?xml version='1.0'?><svg/>", "SVG drawing.*convert it to PNG"),
        (b"%PDF-1.7", "a PDF document.*save the picture in it as PNG"),
        (b"PK\x03\x04", "ZIP archive.*unpack"),
        (b"8BPS", "begins like a picture, but Pillow cannot open it"),
        (encoded(NOISE, "EPS"), "EPS.* file, which only another program draws.*export it as PNG"),
        (b"BUFR" + bytes(20), "is a BUFR file, which Pillow cannot decode here: export it"),
        (HEIC, "HEIC photo: pip install pillow-heif"),
        (HEIC.replace(b"heic", b"isom"), "video.*one frame"),
        (b"version https://git-lfs.github.com", "Git LFS pointer.*git lfs pull"),
        (b'{"error": 7}', 'begins with the text "{"error": 7}"'),
        (bytes(range(200, 255)), r"not a picture that Pillow can open \(55 bytes\)"),
    ],
)
def test_content_that_is_no_picture(data, message):
    with pytest.raises(ImageError, match=message):
        open_image(data)
