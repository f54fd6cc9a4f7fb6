"""From bytes, an array or any PIL image to an upright 8-bit RGB picture.

Covered: the pixel limit, read from the header before anything is decoded; damaged and foreign
content; EXIF orientation; transparency on white; 16-bit, integer and float greys.
Not covered: where the bytes come from (images.py, remote.py), and colour profiles: sample values
are taken as they are, as LLaVA's own code does.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile, ImageOps

from .errors import ImageError
from .repairs import plain, what_it_is

# Pillow's other readers stay out: EPS starts Ghostscript, icons hold frames larger than their
# header says, and the rest are formats that no photo comes in. JPEG includes MPO; HEIF is there
# once a person has registered pillow-heif.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")

_PILLOW = threading.Lock()


def decode(data: bytes, name: str, *, max_pixels: int, content_type: str = "") -> Image.Image:
    """Decode a file's bytes; `name` says in messages what they are."""
    with _strict_pillow():
        formats = [known for known in FORMATS if known in Image.OPEN]
        try:
            picture = Image.open(io.BytesIO(data), formats=formats)
        except Exception as error:  # decoders of foreign bytes raise every kind there is
            raise ImageError(what_it_is(data, name, content_type)) from error
    return to_rgb(picture, name, max_pixels=max_pixels)


def to_rgb(picture: Image.Image, name: str, *, max_pixels: int) -> Image.Image:
    """Return a new picture: upright, flattened on white, mode "RGB". `picture` stays as it is."""
    check_pixels(*picture.size, name, max_pixels)
    try:
        with _strict_pillow():
            picture.load()
    except Exception as error:
        raise ImageError(
            f"{name} is cut off or damaged and cannot be read in full ({plain(error)}). "
            "Fetch, save or upload it again."
        ) from error
    try:
        result = _flatten(ImageOps.exif_transpose(picture))
    except Exception as error:
        raise ImageError(
            f"{name} (mode {picture.mode}) cannot be turned into RGB ({plain(error)}). "
            "Save it as PNG or JPEG and try again."
        ) from error
    result.info = {}  # EXIF may say where a photo was taken; notebooks get shared
    return result


def from_array(array: Any, *, max_pixels: int) -> Image.Image:
    """Read a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); see `images.open_image`."""
    import numpy

    shape = " x ".join(map(str, array.shape)) or "no dimensions"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = ": use array.transpose(1, 2, 0)" if first else ""
        raise ImageError(
            f"The array is {shape}; open_image takes height x width, optionally x 1, 3 or 4{hint}."
        )
    check_pixels(array.shape[1], array.shape[0], "The array", max_pixels)
    values = numpy.asarray(array)
    if channels == 1:
        values = values.reshape(values.shape[:2])
    picture = Image.fromarray(numpy.ascontiguousarray(_to_8_bit(values)))
    return to_rgb(picture, "The array", max_pixels=max_pixels)


def check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise ImageError for a picture without pixels, or with more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): give another picture.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width:,} x {height:,} pixels, {width * height / 1e6:.1f} megapixels; "
            f"the limit is {max_pixels / 1e6:g}. Save it smaller, or, if you trust it, call "
            f"open_image(..., max_pixels={width * height:_}) and use the result."
        )


def _to_8_bit(values: Any) -> Any:
    kind, width = values.dtype.kind, values.dtype.itemsize
    if (kind, width) == ("u", 1):
        return values
    if kind == "b":
        return values.astype("uint8") * 255
    if (kind, width) == ("u", 2):
        return _scaled(values, 65535)
    if kind != "f":
        raise ImageError(
            f"The array holds {values.dtype} values; open_image takes uint8, bool, uint16, or "
            "floats from 0 to 1. For whole numbers from 0 to 255: array.astype('uint8')."
        )
    low, high = values.min(), values.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused too
        raise ImageError(
            f"The array's floats run from {low:g} to {high:g}; open_image takes floats from 0 "
            "to 1. For values from 0 to 255: array / 255."
        )
    return _scaled(values, 1)


def _scaled(values: Any, full: float, start: float = 0.0) -> Any:
    grey = values.astype("float32")  # and from here in place: arrays are large
    grey -= start
    grey *= 255 / full
    return grey.round(out=grey).clip(0, 255, out=grey).astype("uint8")


def _flatten(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _from_deep_grey(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    layer = picture.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    page.alpha_composite(layer)
    return page.convert("RGB")


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys by their usual full scale; other ranges are stretched."""
    import numpy

    values = numpy.asarray(picture)
    if picture.mode.startswith("I;16"):
        grey = _scaled(values, 65535)
    else:
        values = numpy.nan_to_num(values, posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        scales = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
        full = next((scale for scale in scales if low >= 0 and high <= scale), None)
        grey = _scaled(values, full) if full else _scaled(values, high - low or 1, low)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow with its global switches as needed here, and put back afterwards.

    LOAD_TRUNCATED_IMAGES, which many notebooks set, would return a half-grey picture. Pillow's
    own pixel limit warns or raises below `max_pixels`; `check_pixels` stands in for it.
    """
    with _PILLOW:
        kept = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        try:
            Image.init()
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = kept
