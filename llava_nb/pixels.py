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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from PIL import Image, ImageFile

from .errors import ImageError, plain

MAX_PIXELS = 100_000_000
# A picture takes 4 bytes a pixel in Pillow, and as many again as RGB. One of more than 50 million
# comes back reduced to at most 16 million (4,000 x 4,000, where a model sees 2,304 x 2,304 at the
# most), so that opening takes at most 0.5 GiB.
FULL_PIXELS, REDUCED_PIXELS = 50_000_000, 16_000_000
# The decoders of these formats hold 16 and 10 bytes a pixel (measured): of max_pixels they get this
# share, to the same 0.5 GiB. JPEG 2000's holds 19, but can be asked for half the size.
SHARES = {"WEBP": 0.3, "AVIF": 0.5}
JPEG2000_PIXELS = 25_000_000
# EPS starts another program, IPTC opens what is inside it, EPS too, and MPEG is never decoded.
NOT_OPENED = ("EPS", "IPTC", "MPEG")

_PILLOW = threading.RLock()
_ICONS = (b"\0\0\1\0", b"icns")
_ORIENTATION = 0x0112  # a tag of EXIF 2.3 and TIFF 6.0
_TILE = 1024  # pixels a side: what is converted at a time, so that there is no second copy


def from_array(array: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); see `open_image`."""
    import numpy

    values = numpy.asarray(array)
    shape = " x ".join(map(str, values.shape)) or "a single number"
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        first = values.ndim == 3 and values.shape[0] in (1, 3, 4)
        hint = ": use array.transpose(1, 2, 0)" if first else ""
        raise ImageError(
            f"The array is {shape}; open_image takes height x width, optionally x 1, 3 or 4{hint}."
        )
    size = values.shape[1], values.shape[0]
    check_pixels(size, "The array", max_pixels)
    if values.ndim == 3 and channels == 1:
        values = values[:, :, 0]
    scale = _array_scale(values)

    def tile(box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        part = scale(values[top:bottom, left:right])
        return _flat(Image.fromarray(numpy.ascontiguousarray(part)))

    return _assembled(size, tile)


# Limits and Pillow's own switches.


def check_pixels(
    size: tuple[int, int], name: str, max_pixels: int, file_format: str | None = None
) -> None:
    """Raise ImageError for a picture without pixels, or with more than the limit."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): give another picture.")
    share = SHARES.get(file_format, 1)
    if width * height > max_pixels * share:
        raise ImageError(too_large(width * height, name, max_pixels, file_format))


def too_large(pixels: int, name: str, max_pixels: int, file_format: str | None = None) -> str:
    """The message for a picture of more pixels than the limit."""
    share = SHARES.get(file_format, 1)
    why = f" for {file_format}, which takes more memory to decode" if share < 1 else ""
    return (
        f"{name} has {pixels / 1e6:.1f} megapixels; the limit is {max_pixels * share / 1e6:.4g}"
        f"{why}. Save it smaller, or, if you trust it, call open_image(..., "
        f"max_pixels={math.ceil(pixels / share):_}) and use the result."
    )


@contextmanager
def pillow_settings(data: bytes = b"", max_pixels: int = MAX_PIXELS) -> Iterator[None]:
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

Check = Callable[[ImageFile.ImageFile], None]


def load(data: bytes, check: Check) -> tuple[Image.Image, bool]:
    """Return the decoded picture, and whether its file has 16 bits a colour, now cut to 8."""
    formats = [known for known in Image.OPEN if known not in NOT_OPENED]
    picture = Image.open(io.BytesIO(data), formats=formats)
    check(picture)
    sixteen_bits = any(";16" in str(tile) for tile in picture.tile)  # as in "RGB;16B"
    pixels = picture.width * picture.height
    if picture.format in ("JPEG", "MPO") and pixels > FULL_PIXELS:
        half = picture.width // 2, picture.height // 2
        picture.draft(None, half)  # libjpeg scales while it decodes
    if picture.format == "JPEG2000" and pixels > JPEG2000_PIXELS:
        picture.reduce = math.ceil(math.log(pixels / JPEG2000_PIXELS, 4))
    picture.load()
    return picture, sixteen_bits


def load_without_side_data(data: bytes, check: Check) -> tuple[Image.Image, bool]:
    """The same without what `pixels_only` leaves out."""
    bare = pixels_only(data)
    if bare is data:
        raise ValueError("nothing in it is known to be other than pixels")
    return load(bare, check)


def load_jpeg_without_end(data: bytes, check: Check) -> tuple[Image.Image, bool]:
    """Decode a JPEG that lacks its end marker, if all of its pixels are there.

    They are if no scan is missing, and if the picture is the same whatever bits follow.
    """
    bare = pixels_only(data).rstrip(b"\xff")
    if not (bare.startswith(b"\xff\xd8") and _has_every_scan(bare)):
        raise ValueError("not a JPEG with all of its scans")
    restarts = re.findall(rb"\xff([\xd0-\xd7])", bare)
    following = restarts[-1][0] - 0xD0 + 1 if restarts else 0
    digests = set()
    for bits in (bytes(range(254, 0, -1)) * 4, b"\x55\x6b" * 512, b""):
        intervals = [bits + bytes([0xFF, 0xD0 + (following + n) % 8]) for n in range(8)]
        picture, _ = load(bare + b"".join(intervals) * bool(bits) + b"\xff\xd9", check)
        digest = hashlib.sha256()
        for box in _boxes(picture.size):
            digest.update(picture.crop(box).tobytes())
        digests.add(digest.digest())
    if len(digests) > 1:
        raise ValueError("the file ends before the last pixel")
    return picture, False


def _has_every_scan(jpeg: bytes) -> bool:
    """Whether each coefficient of each component is there to its last bit (ITU T.81, B.2)."""
    frame = re.search(rb"\xff[\xc0-\xc2]..\x08....(.)", jpeg, re.DOTALL)
    if not frame:
        return False
    count = frame[1][0]
    wanted = {(jpeg[frame.end() + 3 * n], index) for n in range(count) for index in range(64)}
    for scan in re.finditer(rb"\xff\xda..(.)", jpeg, re.DOTALL):
        in_scan = scan[1][0]
        parameters = jpeg[scan.end() : scan.end() + 2 * in_scan + 3]
        if len(parameters) == 2 * in_scan + 3 and parameters[-1] & 15 == 0:
            first, last = parameters[-3], min(parameters[-2], 63)
            wanted -= {
                (parameters[2 * n], k) for n in range(in_scan) for k in range(first, last + 1)
            }
    return not wanted


def pixels_only(data: bytes) -> bytes:
    """Return a PNG, JPEG, WebP or TIFF without its text, profiles and EXIF; others as they are."""
    for start, strip in _STRIPPERS.items():
        if data.startswith(start):
            with suppress(struct.error, IndexError):  # cut off before its pixels
                return strip(data)
    return data


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
_TIFF_PIXELS = {*range(254, 260), 262, 266, 273, 274, *range(277, 281), 284, 292, 293, 317, 320}
_TIFF_PIXELS |= {*range(322, 326), 332, 334, 338, 339, 347, *range(512, 522), *range(529, 533)}


def _bare_tiff(data: bytes) -> bytes:
    """The first directory, shortened where it lies, and no other."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [data[place : place + 12] for place in range(at + 2, at + 2 + 12 * count, 12)]
    kept = [e for e in entries if struct.unpack_from(order + "H", e)[0] in _TIFF_PIXELS]
    upright = struct.pack(order + "HHI", _ORIENTATION, 3, 1)  # one number of 16 bits
    kept = [e for e in kept if e[:2] != upright[:2] or e.startswith(upright)]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:at] + directory + data[at + len(directory) :]


_STRIPPERS = {
    b"\x89PNG\r\n\x1a\n": _bare_png,
    b"\xff\xd8\xff": _bare_jpeg,
    b"RIFF": _bare_webp,
    b"II*\0": _bare_tiff,
    b"MM\0*": _bare_tiff,
}


# Which way is up.

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(picture: Image.Image, data: bytes = b"") -> Image.Transpose | None:
    """Return what turns a picture upright; `data` is its file, if its EXIF was left out."""
    try:
        found = picture.getexif().get(_ORIENTATION)
    except Exception:  # EXIF that Pillow cannot read
        found = None
    if found is None:
        kept = picture.info.get("exif")
        with suppress(struct.error, KeyError):
            found = _orientation_in(kept if isinstance(kept, bytes) else data)
    return _TURNS.get(found) if isinstance(found, int) else None


def _orientation_in(data: bytes) -> int | None:
    """Look up one tag in EXIF as JPEG, PNG and WebP hold it, whatever state the rest is in."""
    for mark, length in ((b"", 0), (b"Exif\0\0", 6), (b"eXIf", 4), (b"EXIF", 8)):
        exif = data[max(data.find(mark), 0) + length :][:65_536]
        if exif.startswith((b"II*\0", b"MM\0*")):
            break
    else:
        return None
    order = "<" if exif.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, at)
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", exif, place)
        if tag == _ORIENTATION:
            return struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], exif, place + 8)[0]
    return None


# Any mode to RGB, tile by tile.


def _boxes(size: tuple[int, int], side: int = _TILE) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield left, top, min(left + side, width), min(top + side, height)


def _assembled(
    size: tuple[int, int], tile: Callable[[tuple[int, int, int, int]], Image.Image]
) -> Image.Image:
    """Put together the RGB tiles of a picture of this size, reduced if it is very large."""
    pixels, factor = size[0] * size[1], 1
    if pixels > FULL_PIXELS:
        factor = math.ceil(math.sqrt(pixels / REDUCED_PIXELS))
    result = Image.new("RGB", tuple(-(-side // factor) for side in size))
    for box in _boxes(size, max(_TILE // factor, 1) * factor):
        part = tile(box) if factor == 1 else tile(box).reduce(factor)
        result.paste(part, (box[0] // factor, box[1] // factor))
    return result


def to_rgb(picture: Image.Image, name: str, *, sixteen_bits: bool = False) -> Image.Image:
    """Return a loaded picture as a new one of mode "RGB", on white, without EXIF.

    `sixteen_bits`: its file has 16 bits a colour, which Pillow has cut to 8. Raises ImageError.
    """
    try:
        prepare = _grey_scale(picture) if picture.mode.startswith(("I", "F")) else None
        if sixteen_bits and picture.mode in ("RGB", "RGBA", "LA"):
            prepare = _colour_scale(picture)

        def tile(box: tuple[int, int, int, int]) -> Image.Image:
            part = picture.crop(box)
            return _flat(prepare(part) if prepare else part)

        return _assembled(picture.size, tile)
    except Exception as error:
        raise ImageError(
            f"{name} (mode {picture.mode}) cannot be turned into RGB ({plain(error)}). Save it as "
            "PNG or JPEG and try again."
        ) from error


def _flat(picture: Image.Image) -> Image.Image:
    """Return an 8-bit picture as RGB, on white where it is transparent."""
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    layer = picture.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    page.alpha_composite(layer)
    return page.convert("RGB")


def _grey_scale(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes 8 bits of greys of 16 bits, 32 bits or floats, by the range they use.

    A microscope's 12 bits would be black on the scale of 16. Of one grey all over, the usual scale
    is taken: 1, 255 or 65,535.
    """
    import numpy

    low, high = math.inf, -math.inf
    for box in _boxes(picture.size):
        values = numpy.asarray(picture.crop(box))
        values = values[numpy.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    start, full = low, high - low
    if not full > 0:
        scales = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
        scales = (65535,) if picture.mode.startswith("I;16") else scales
        start, full = 0, next((scale for scale in scales if 0 <= low and high <= scale), 1)
    key = picture.info.get("transparency")

    def scaled(part: Image.Image) -> Image.Image:
        values = numpy.asarray(part)
        grey = _to_8_bit(numpy.nan_to_num(values, nan=start, posinf=high, neginf=low), full, start)
        if isinstance(key, int):
            grey[values == key] = 255
        return Image.fromarray(grey)

    return scaled


def _colour_scale(picture: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """The same for colours of 16 bits, of which Pillow keeps 8, if at most 14 bits are used."""
    bands = len(picture.getbands())
    colours = bands if picture.mode == "RGB" else bands - 1
    high = max(most for _, most in picture.getextrema()[:colours])
    if not 0 < high < 64:
        return None
    table = [min(round(value * 255 / high), 255) for value in range(256)] * colours
    return lambda part: part.point(table + list(range(256)) * (bands - colours))


def _to_8_bit(values: Any, full: float, start: float = 0.0) -> Any:
    grey = values.astype("float64" if values.dtype.itemsize > 2 else "float32")
    grey = (grey - start) * 255 / full
    return grey.round().clip(0, 255).astype("uint8")


def _array_scale(values: Any) -> Callable[[Any], Any]:
    """Return what makes 8 bits of a part of this array."""
    kind, width = values.dtype.kind, values.dtype.itemsize
    if (kind, width) == ("u", 1):
        return lambda part: part
    if kind == "b":
        return lambda part: part.astype("uint8") * 255
    if (kind, width) == ("u", 2):
        colours = values[..., :3] if values.ndim == 3 else values
        low, high = int(colours.min()), int(colours.max())
        start, full = (low, high - low) if high > low else (0, 65535)

        def scaled(part: Any) -> Any:
            grey = _to_8_bit(part, full, start)
            if part.ndim == 3 and part.shape[2] == 4:
                grey[..., 3] = _to_8_bit(part[..., 3], 65535)
            return grey

        return scaled
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
    return lambda part: _to_8_bit(part, 1)
