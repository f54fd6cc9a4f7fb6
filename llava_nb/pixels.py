"""Pixels: decoded whatever else is in their file, turned upright, made RGB of 8 bits.

Sample values are taken as they are, without colour profiles, as LLaVA's own code does.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy
from PIL import Image, ImageFile, ImageOps
from PIL import TiffImagePlugin as tiff

from .errors import ImageError, plain

MAX_PIXELS = 100_000_000
_BYTES = 480_000_000  # of pixels: with a file of 50 MiB, opening takes at most 0.5 GiB
# A picture takes 4 bytes a pixel in Pillow, and as many again as RGB. So one of more than 50
# million comes back reduced to at most 16 million; a model sees at most 2,304 x 2,304.
_FULL_PIXELS, _REDUCED_PIXELS = 50_000_000, 16_000_000
_JPEG2000_PIXELS = 25_000_000  # its decoder holds 19 bytes a pixel, but can make half the size
# What the decoders of these formats hold beside the picture, in bytes a pixel (measured).
_HELD = {"WEBP": 12, "AVIF": 6, "BLP": 4.5, "QOI": 3.5}
# EPS starts another program, IPTC opens what is inside it, EPS too, and MPEG is never decoded.
NOT_OPENED = ("EPS", "IPTC", "MPEG")
_WITH_EXIF = ("JPEG", "MPO", "PNG", "WEBP", "TIFF")  # others' plugins may have turned it already

_PILLOW = threading.RLock()
_ICONS = (b"\0\0\1\0", b"icns")
_ORIENTATION = 0x0112  # a tag of EXIF 2.3 and TIFF 6.0
_TILE = 1024  # pixels a side: what is converted at a time, so that there is no second copy

Box = tuple[int, int, int, int]


# Limits and Pillow's own switches.


def check_pixels(
    size: tuple[int, int], name: str, max_pixels: float, kind: str = "a picture", taken: float = 4.0
) -> None:
    """Raise ImageError for a picture without pixels, or with more than the limit.

    `taken`: how many bytes a pixel decoding takes; above 4.8 the limit is lower.
    """
    pixels = math.prod(size)
    if pixels < 1:
        raise ImageError(f"{name} has no pixels ({size[0]} x {size[1]}): give another picture.")
    taken += 20 / size[0]  # of pointers to each row, which are the most in very narrow pictures
    share = min(_BYTES / (taken * MAX_PIXELS), 1)
    if pixels > max_pixels * share:
        form = f"{kind} of {size[0]} x {size[1]} pixels"
        why = f" for {form}, which takes more memory to decode" if share < 1 else ""
        raise ImageError(
            f"{name} has {pixels / 1e6:.1f} megapixels; the limit is "
            f"{max_pixels * share / 1e6:.4g}{why}. Save it smaller, or, if you trust it, call "
            f"open_image(..., max_pixels={math.ceil(pixels / share):_}) and use the result."
        )


@contextmanager
def pillow_settings(data: bytes = b"", max_pixels: float = MAX_PIXELS) -> Iterator[None]:
    """Pillow with its global switches as needed here, and put back afterwards.

    LOAD_TRUNCATED_IMAGES, which many notebooks set, would return a half-grey picture. Pillow's own
    limit, which warns and at twice as much raises, stands for pictures inside a file.
    """
    with _PILLOW:
        kept = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        Image.MAX_IMAGE_PIXELS = max_pixels / (2 if data.startswith(_ICONS) else 1)
        try:
            Image.init()
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = kept


# Decoding: as it is; without what is not pixels; and a JPEG that ends before its end marker.


def read(data: bytes, name: str, max_pixels: float, file: bytes = b"") -> Image.Image:
    """Decode a file to upright RGB, within `pillow_settings`.

    `file` is what its EXIF is looked up in, if it is not in `data`. Raises ImageError for a
    picture over the limit, and otherwise whatever Pillow's decoders raise.
    """
    formats = [known for known in Image.OPEN if known not in NOT_OPENED]
    picture = Image.open(io.BytesIO(data), formats=formats)
    if isinstance(picture, ImageFile.StubImageFile):
        picture.load()  # raises, or makes of it what a plugin that was registered draws
    pixels, (kind, held) = picture.width * picture.height, _decoder(picture, data)
    is_jpeg = picture.format in ("JPEG", "MPO")
    check_pixels(picture.size, name, max_pixels, kind, held + (1 if is_jpeg else 4))
    if is_jpeg and pixels * max(held + 4, 8) > _FULL_PIXELS * 8:
        picture.draft(None, (picture.width // 2, picture.height // 2))  # libjpeg scales to half
    if picture.format == "JPEG2000" and pixels > _JPEG2000_PIXELS:
        picture.reduce = math.ceil(math.log(pixels / _JPEG2000_PIXELS, 4))
    sixteen_bits = ";16" in str(getattr(picture, "tile", ""))  # as in "RGB;16B"
    if picture.format == "PNG":
        picture.load()  # its EXIF may stand after the pixels
    orientation = orientation_of(picture, file if picture.format in _WITH_EXIF else b"")
    if picture.format == "TIFF":
        picture.getexif()[_ORIENTATION] = 1  # or Pillow turns it as it loads, in a second copy
    picture.load()
    result = to_rgb(picture, sixteen_bits=sixteen_bits)
    del picture  # a large one takes as much again to be turned
    return upright(result, orientation)


def _decoder(picture: ImageFile.ImageFile, data: bytes) -> tuple[str, float]:
    """Return the kind of a file, and the bytes a pixel its decoder holds beside the picture."""
    if picture.format in ("JPEG", "MPO"):
        # libjpeg keeps all coefficients, 2 bytes each, where it takes several scans to have them
        # (jdinput.c, jdcoefct.c), and at full size, whatever the size that it scales to.
        scan = re.search(rb"\xff\xda..(.)", pixels_only(data), re.DOTALL)
        if "progressive" in picture.info or (scan and scan[1][0] < picture.layers):
            _, across, down, _ = zip(*picture.layer, strict=True)
            samples = sum(map(math.prod, zip(across, down, strict=True)))
            return "JPEG in several scans", 2 * samples / (max(across) * max(down))
    if picture.format == "TIFF" and picture.tag_v2.get(tiff.COMPRESSION, 1) != 1:
        # libtiff decodes a strip or tile at a time (Pillow's TiffDecode.c), and one may be it all.
        tags, (width, height) = picture.tag_v2, picture.size
        with suppress(TypeError):  # a damaged tag
            rows = tags.get(tiff.TILELENGTH) or tags.get(tiff.ROWSPERSTRIP, height)
            share = min(tags.get(tiff.TILEWIDTH, width) * rows / max(width * height, 1), 1)
            bits = tags.get(tiff.BITSPERSAMPLE, (1,))
            planes = len(bits) if tags.get(tiff.PLANAR_CONFIGURATION) == 2 else 1
            return "TIFF in one strip", share * sum(bits) / 8 / planes
    return picture.format, _HELD.get(picture.format, 0)


def pixels_only(data: bytes) -> bytes:
    """Return a PNG, JPEG, WebP or TIFF without its text, profiles and EXIF; others as they are."""
    for start, strip in _STRIPPERS.items():
        if data.startswith(start):
            with suppress(struct.error, IndexError):  # cut off before its pixels
                return strip(data)
    return data


def completed_jpeg(data: bytes) -> bytes:
    """Return a JPEG that lacks its end marker with one, if all of its pixels are there.

    They are if no scan is missing, and if the picture is the same whatever bits follow. Raises
    ValueError.
    """
    bare = pixels_only(data).rstrip(b"\xff")
    if not (bare.startswith(b"\xff\xd8") and _has_every_scan(bare)):
        raise ValueError("not a JPEG with all of its scans")
    restarts = re.findall(rb"\xff([\xd0-\xd7])", bare)
    following = restarts[-1][0] - 0xD0 + 1 if restarts else 0
    digests = set()
    for bits in (bytes(range(254, 0, -1)) * 4, b"\x55\x6b" * 512, b""):
        intervals = [bits + bytes([0xFF, 0xD0 + (following + n) % 8]) for n in range(8)]
        completed = bare + b"".join(intervals) * bool(bits) + b"\xff\xd9"
        digests.add(hashlib.sha256(read(completed, "", math.inf).tobytes()).digest())
    if len(digests) > 1:
        raise ValueError("the file ends before the last pixel")
    return completed


def _has_every_scan(jpeg: bytes) -> bool:
    """Whether each coefficient of each component is there to its last bit (ITU T.81, B.2)."""
    frame = re.search(rb"\xff[\xc0-\xc2]..\x08....(.)", jpeg, re.DOTALL)
    if not frame:
        return False
    components = jpeg[frame.end() : frame.end() + 3 * frame[1][0] : 3]
    missing = {(component, index) for component in components for index in range(64)}
    for scan in re.finditer(rb"\xff\xda..(.)", jpeg, re.DOTALL):
        end = scan.end() + 2 * scan[1][0]
        spectrum = jpeg[end : end + 3]  # the first and the last coefficient, and how exact
        if len(spectrum) == 3 and spectrum[2] & 15 == 0:
            there = range(spectrum[0], min(spectrum[1], 63) + 1)
            missing -= {(part, index) for part in jpeg[scan.end() : end : 2] for index in there}
    return not missing


def _bare_png(data: bytes) -> bytes:
    kept, place = [data[:8]], 8
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + size
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[place:end])
        elif not data[end + 4 : end + 8].isalpha():  # a length that leads to no next chunk
            found = re.compile(b"PLTE|tRNS|IDAT|IEND").search(data, place + 8)
            end = found.start() - 4 if found else len(data)
        place = end
    return b"".join(kept)


def _bare_jpeg(data: bytes) -> bytes:
    kept, place = [data[:2]], 2
    while True:
        place = data.find(b"\xff", place)
        marker = data[place + 1] if place >= 0 else 0xDA
        if marker in (0x00, 0xFF):
            place += 1
            continue
        if marker == 0xDA:  # the first scan: from here on there are pixels
            return b"".join(kept) + data[max(place, 0) :]
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        # Not comments, nor application data but Adobe's, which says how colours are coded.
        adobe = marker == 0xEE and end - place >= 16
        if adobe or not (marker == 0xFE or 0xE0 <= marker <= 0xEF):
            kept.append(data[place:end])
        place = end


def _bare_webp(data: bytes) -> bytes:
    kept, place = [], 12
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size + size % 2
        chunk = data[place:end]
        if kind == b"VP8X":  # its flags say that a profile, EXIF and XMP follow
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(chunk)
        place = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# TIFF 6.0 and its supplements: what the pixels are, how they are packed and where they lie.
_TIFF_PIXELS = {*range(254, 260), 262, 266, 273, *range(277, 281), 284, 292, 293, 317, 320}
_TIFF_PIXELS |= {*range(322, 326), 332, 334, 338, 339, 347, *range(512, 522), *range(529, 533)}


def _bare_tiff(data: bytes) -> bytes:
    """The first directory, shortened where it lies, and no other."""
    order, at, entries = _tiff_directory(data)
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_PIXELS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:at] + directory + data[at + len(directory) :]


def _tiff_directory(data: bytes) -> tuple[str, int, list[bytes]]:
    """Byte order, place and entries of the first directory of a TIFF, which EXIF is as well."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    return order, at, [data[n : n + 12] for n in range(at + 2, at + 2 + 12 * count, 12)]


_STRIPPERS = {
    b"\x89PNG\r\n\x1a\n": _bare_png,
    b"\xff\xd8\xff": _bare_jpeg,
    b"RIFF": _bare_webp,
    b"II*\0": _bare_tiff,
    b"MM\0*": _bare_tiff,
}


# Which way is up.


def upright(picture: Image.Image, orientation: Any) -> Image.Image:
    """Turn this picture by an orientation of EXIF."""
    if orientation in range(2, 9):
        picture.getexif()[_ORIENTATION] = orientation
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def orientation_of(picture: Image.Image, data: bytes = b"") -> Any:
    """Return the orientation in a picture's EXIF; `data` is its file, if that was left out."""
    try:
        found = picture.getexif().get(_ORIENTATION)
    except Exception:  # EXIF that Pillow cannot read
        found = None
    if found is None:
        kept = picture.info.get("exif")
        with suppress(struct.error, KeyError):  # cut off, or no number
            found = _orientation_in(kept if isinstance(kept, bytes) else data)
    return found


def _orientation_in(data: bytes) -> int | None:
    """Look up one tag in EXIF as its kind of file holds it, whatever state the rest is in."""
    for mark, length in ((b"", 0), (b"Exif\0\0", 6), (b"eXIf", 4), (b"EXIF", 8)):
        exif = data[max(data.find(mark), 0) + length :]
        if exif.startswith((b"II*\0", b"MM\0*")):
            break
    else:
        return None
    order, _, entries = _tiff_directory(exif)
    for entry in entries:
        tag, kind = struct.unpack_from(order + "HH", entry)
        if tag == _ORIENTATION:
            return struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], entry, 8)[0]
    return None


# Any mode to RGB, tile by tile.


def _assembled(size: tuple[int, int], tile: Callable[[Box], Image.Image]) -> Image.Image:
    """Put together the RGB tiles of a picture of this size, reduced if it is very large."""
    (width, height), factor = size, 1
    if width * height > _FULL_PIXELS:
        factor = math.ceil(math.sqrt(width * height / _REDUCED_PIXELS))
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for box in _boxes(size, _TILE // factor * factor):
        part = tile(box) if factor == 1 else tile(box).reduce(factor)
        result.paste(part, (box[0] // factor, box[1] // factor))
    return result


def _boxes(size: tuple[int, int], side: int = _TILE) -> Iterator[Box]:
    width, height = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield left, top, min(left + side, width), min(top + side, height)


def to_rgb(picture: Image.Image, *, sixteen_bits: bool = False) -> Image.Image:
    """Return a loaded picture as a new one of mode "RGB", on white, without EXIF.

    `sixteen_bits`: its file has 16 bits a colour, which Pillow has cut to 8.
    """
    mode, transparency = picture.mode, picture.info.get("transparency")
    is_deep = mode.startswith(("I", "F"))  # of 16 bits, 32 bits or floats
    if is_deep:
        usual = {"F": (1, 255, 65535), "I": (255, 65535)}.get(mode, (65535,))
        parts = (numpy.asarray(picture.crop(box)) for box in _boxes(picture.im.size))
        low, high = _range_of(parts, usual)
    table = _colour_table(picture) if sixteen_bits and mode in ("RGB", "RGBA", "LA") else None

    def tile(box: Box) -> Image.Image:
        part = picture.crop(box)
        if is_deep:
            values = numpy.asarray(part)
            grey = _to_8_bit(values, low, high)
            if isinstance(transparency, int):
                grey[values == transparency] = 255
            part = Image.fromarray(grey)
        return _flat(part.point(table) if table else part)

    return _assembled(picture.im.size, tile)


def _flat(picture: Image.Image) -> Image.Image:
    """Return an 8-bit picture as RGB, on white where it is transparent."""
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = map(ImageCms.createProfile, ("LAB", "sRGB"))
        return ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    layer = picture.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")


def _range_of(parts: Iterable[Any], usual: Sequence[int]) -> tuple[float, float]:
    """Return what becomes black and white: the lowest and the highest of some arrays' values.

    A microscope's 12 bits would be black on the scale of 16. Of one grey all over, the first of
    the usual scales is taken that holds it.
    """
    low, high = math.inf, -math.inf
    for values in parts:
        values = values[numpy.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low < high:
        return low, high
    return 0, next((scale for scale in usual if 0 <= low and high <= scale), 1)


def _to_8_bit(values: Any, low: float, high: float) -> Any:
    grey = (values.astype("float64") - low) * 255 / (high - low)
    return numpy.nan_to_num(grey.round().clip(0, 255)).astype("uint8")


def _colour_table(picture: Image.Image) -> list[int] | None:
    """The same for colours of 16 bits, of which Pillow keeps 8, if at most 14 bits are used."""
    bands = len(picture.getbands())
    colours = bands if picture.mode == "RGB" else bands - 1
    high = max(most for _, most in picture.getextrema()[:colours])
    table = [min(round(value * 255 / max(high, 1)), 255) for value in range(256)] * colours
    return table + list(range(256)) * (bands - colours) if 0 < high < 64 else None


# Arrays.


def from_array(array: Any, max_pixels: float = MAX_PIXELS) -> Image.Image:
    """Read a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); see `open_image`."""
    values = numpy.asarray(array)
    shape = " x ".join(map(str, values.shape)) or "a single number"
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        channels_first = values.ndim == 3 and values.shape[0] in (1, 3, 4)
        hint = ": use array.transpose(1, 2, 0)" if channels_first else ""
        raise ImageError(
            f"The array is {shape}; open_image takes height x width, optionally x 1, 3 or 4{hint}."
        )
    size = values.shape[1], values.shape[0]
    check_pixels(size, "The array", max_pixels)
    values = values[:, :, 0] if values.ndim == 3 and channels == 1 else values
    low, high, full = _array_range(values)

    def tile(box: Box) -> Image.Image:
        left, top, right, bottom = box
        part = scaled = values[top:bottom, left:right]
        if values.dtype != "uint8":
            scaled = _to_8_bit(part, low, high)
            if channels == 4:
                scaled[..., 3] = _to_8_bit(part[..., 3], 0, full)
        return _flat(Image.fromarray(numpy.ascontiguousarray(scaled)))

    return _assembled(size, tile)


def _array_range(values: Any) -> tuple[float, float, float]:
    """Return what in this array becomes black, white, and all there. Raises ImageError."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "u" and size == 2:
        colours = values[..., :3] if values.ndim == 3 else values
        boxes = _boxes(values.shape[1::-1])
        parts = (colours[top:bottom, left:right] for left, top, right, bottom in boxes)
        return *_range_of(parts, [65535]), 65535
    if kind == "b" or (kind == "u" and size == 1):
        return (0, 1, 1) if kind == "b" else (0, 255, 255)
    if kind != "f":
        raise ImageError(
            f"The array holds {plain(values.dtype)} values; open_image takes uint8, bool, uint16, "
            "or floats from 0 to 1. For whole numbers from 0 to 255: array.astype('uint8')."
        )
    low, high = values.min(), values.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused too
        raise ImageError(
            f"The array's floats run from {low:g} to {high:g}; open_image takes floats from 0 "
            "to 1. For values from 0 to 255: array / 255."
        )
    return 0, 1, 1
