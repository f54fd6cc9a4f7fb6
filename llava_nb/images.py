"""open_image(): whatever a person calls a picture, as an upright RGB picture."""

from __future__ import annotations

import base64
import difflib
import io
import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy
from PIL import Image, UnidentifiedImageError

from . import pixels
from .download import MAX_BYTES, MAX_REDIRECTS, TIMEOUT, Content, fetch
from .errors import ImageError, LlavaNbError, plain
from .pixels import MAX_PIXELS

TAKEN = (
    "a path, an http(s) address, bytes, a data URI, a PIL image, a numpy array, "
    "or the value of an upload widget"
)
_BUFFERS = (bytes, bytearray, memoryview)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SCHEMES_WITHOUT_SLASHES = ("about", "blob", "file", "ftp", "javascript", "mailto", "view-source")


# Drawn, so that the embedded model knows what they show; for a first caption without a picture.
EXAMPLES = Path(__file__).parent / "pictures"
EXAMPLE_NAMES = ("one_shape.png", "two_shapes.png", "three_shapes.png")


def example_picture(name: str = "three_shapes.png") -> Path:
    """Return the path of a bundled picture. Raises LlavaNbError, which names those there are."""
    if not isinstance(name, str) or name not in EXAMPLE_NAMES:
        raise LlavaNbError(
            f"There is no bundled picture {plain(repr(name))}; there are: "
            f"{', '.join(EXAMPLE_NAMES)}."
        )
    return EXAMPLES / name


def open_image(
    source: Any,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT,
    max_redirects: int = MAX_REDIRECTS,
    allow_private: bool = False,
) -> Image.Image:
    """Open a picture: always a new image of mode "RGB", upright, transparency on white.

    `source` is one of

    - a path (str or Path), or an http or https address;
    - bytes, bytearray or memoryview of an image file, or a data URI;
    - a PIL image (never modified);
    - a numpy array, height x width, optionally x 1, 3 or 4 channels, of uint8, bool, uint16 or
      floats from 0 to 1;
    - the value of an ipywidgets FileUpload, version 7 (a dict by file name) or 8 (a tuple of
      dicts), or one entry of it; of several files the last.

    Every format opens that Pillow, or a plugin registered with it, decodes, but EPS, which would
    start another program. Of an animation or a file of several pages the first counts. Greys of
    more than 8 bits are scaled by the range that they use. More than 50 million pixels come back
    reduced by a whole factor.

    Limits: `max_bytes` (50 MiB) for the file, counted after any content encoding; `max_pixels`
    (100 million), checked before decoding; `timeout` (20 seconds) for the whole of a download;
    `max_redirects` (5). Addresses inside a private network, or of this machine, are refused unless
    `allow_private` is true. With these limits opening takes at most 0.5 GiB, so where a decoder
    holds more than the picture the limit is lower: WebP 30 million pixels, AVIF 48, a progressive
    JPEG without subsampling 69, a TIFF that is one compressed strip of three colours 69, and less
    than 100 for pictures of fewer than 25 pixels across.

    Raises ImageError, whose message is the repair.
    """
    limits = {"max_bytes": max_bytes, "timeout": timeout, "max_redirects": max_redirects}
    for name, value in {**limits, "max_pixels": max_pixels}.items():
        if not isinstance(value, Real) or not 0 <= value < math.inf:
            raise ImageError(f"{name} is {plain(repr(value), 60)}: give a number from 0 on.")
    try:
        if isinstance(source, Image.Image):
            return from_pil(source, max_pixels)
        if isinstance(source, numpy.ndarray):
            return pixels.from_array(source, max_pixels)
        file = read(source, **limits, allow_private=allow_private)
        return decode(file.data, file.name, max_pixels=max_pixels, content_type=file.content_type)
    except LlavaNbError:
        raise
    except Exception as error:  # other people's objects raise whatever they like when looked at
        cause = f"{type(error).__name__}: {plain(error)}"
        raise ImageError(
            f"open_image cannot use {_kind(source)} ({cause}): give {TAKEN}."
        ) from error


# Reading: from what a person gave to the bytes of a file.


def read(source: Any, *, max_bytes: int = MAX_BYTES, **download: Any) -> Content:
    """Return the bytes of what is no picture object, undecoded; see `open_image`."""
    if is_address(source):
        return fetch(source.strip(), max_bytes=max_bytes, **download)
    if isinstance(source, str) and source.lstrip()[:5].lower() == "data:":
        return _from_data_uri(source.strip(), max_bytes)
    if isinstance(source, str | os.PathLike):
        return read_file(source, max_bytes)
    if isinstance(source, _BUFFERS):
        return _from_buffer(source, "The bytes given", max_bytes)
    return _from_upload(source, max_bytes)


def is_address(source: Any) -> bool:
    """Whether `source` is text that begins as an http or https address does."""
    return isinstance(source, str) and bool(re.match(r"\s*https?:", source, re.IGNORECASE))


def find_path(source: str | os.PathLike) -> Path:
    """Return the path, with `~` expanded, in the Unicode form in which it is on the disk."""
    # A Mac writes é as e and an accent (NFD), Windows and Linux as one letter (NFC): where the name
    # as given is missing, one that reads the same is taken, folder by folder.
    path = Path(os.fsdecode(source)).expanduser()
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if not os.path.lexists(found / part):
            wanted = unicodedata.normalize("NFC", part)
            try:
                names = (entry.name for entry in os.scandir(found))
                part = next(n for n in names if unicodedata.normalize("NFC", n) == wanted)
            except (OSError, StopIteration):
                return path
        found /= part
    return found


def read_file(source: str | os.PathLike, max_bytes: int = MAX_BYTES) -> Content:
    """Return the bytes of one file. Raises ImageError."""
    text = os.fsdecode(source)
    _refuse_other_schemes(text, is_text=isinstance(source, str))
    name = f"'{plain(text)}'"
    try:
        path = find_path(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(
                f"{name} is a folder: give one picture in it, or caption them all with "
                f"caption_folder(llava, {name}, 'captions.csv')."
            )
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name} is a device or a pipe: give the path of an image file.")
        with path.open("rb") as file:
            data = file.read(int(max_bytes) + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(no_such_file(path, text)) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = plain(getattr(error, "strerror", None) or error)
        raise ImageError(f"{name} cannot be read ({reason}): give {TAKEN}.") from error
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): save, copy or upload it again.")
    return _from_buffer(data, name, max_bytes, max(len(data), status.st_size))


def no_such_file(path: Path, text: str) -> str:
    """The message for a path where nothing is; `text` is what the person wrote."""
    message = f"There is no file '{plain(text)}' (looked in '{plain(path.parent.absolute())}')."
    if text.lower().startswith("www."):
        return f"{message} For an address write https:// in front of it."
    try:
        # A folder may hold millions of files; a suggestion is not worth reading them all.
        names = {entry.name.lower(): entry.name for entry in islice(os.scandir(path.parent), 9999)}
    except OSError:
        return f"{message} That folder does not exist either: check the path."
    near = difflib.get_close_matches(path.name.lower(), names, n=3)
    if near:
        choices = " or ".join(f"'{plain(names[name])}'" for name in near)
        return f"{message} Did you mean {choices}?"
    return f"{message} Check the name, or upload the file first."


def _refuse_other_schemes(text: str, *, is_text: bool) -> None:
    if not text.strip():
        raise ImageError(f"The source is empty text: give {TAKEN}.")
    found = re.match(r"\s*([a-z][a-z0-9+.-]+):(//)?", text, re.IGNORECASE)
    scheme, slashes = (found[1].lower(), found[2]) if found else ("", "")
    if not is_text and scheme in ("http", "https"):
        raise ImageError(f"Give the address as text, not as a Path (it reads '{plain(text)}' now).")
    if slashes or scheme in _SCHEMES_WITHOUT_SLASHES:
        repair = "the path itself, without 'file://'" if scheme == "file" else "a path"
        raise ImageError(
            f"'{plain(text)}' is a {scheme}: address; only http and https are opened. "
            f"Save the picture and give {repair}, or give its http(s) address."
        )


def _from_data_uri(uri: str, max_bytes: int) -> Content:
    shown = f"The data URI '{plain(uri, 80)}'"
    header, comma, payload = uri.partition(",")
    try:
        data = unquote_to_bytes(payload)
        if header.lower().replace(" ", "").endswith(";base64"):
            packed = b"".join(data.split()).rstrip(b"=")
            data = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise ImageError(
            f"{shown} does not hold valid base64 or text ({plain(error)}). Copy it again in full."
        ) from error
    if not data:
        missing = "content after the comma" if comma else "comma, so no content"
        raise ImageError(
            f"{shown} has no {missing}: it reads data:image/png;base64,<content>. Copy it again "
            "in full."
        )
    return _from_buffer(data, "The data URI", max_bytes)


def _from_upload(value: Any, max_bytes: int) -> Content:
    """Read the value of an ipywidgets FileUpload, or one entry of it; of several files the last."""

    def is_entry(value: Any) -> bool:
        return isinstance(value, Mapping) and isinstance(value.get("content"), _BUFFERS)

    files = [value]
    if isinstance(value, tuple | list):
        files = value
    elif isinstance(value, Mapping) and not is_entry(value):
        files = [*value.values()]  # by name, in version 7
    entry = files[-1] if files else {"content": b""}
    if not is_entry(entry):
        raise ImageError(_not_taken(value))
    metadata = entry.get("metadata")
    inner = metadata.get("name") if isinstance(metadata, Mapping) else None
    name = entry.get("name") or inner
    name = f"The upload '{plain(name)}'" if name else "The upload"
    return _from_buffer(entry["content"], name, max_bytes)


def _from_buffer(
    buffer: bytes | bytearray | memoryview, name: str, max_bytes: int, size: int | None = None
) -> Content:
    size = memoryview(buffer).nbytes if size is None else size
    if size == 0:
        raise ImageError(
            f"{name}: nothing arrived (0 bytes). The file was probably over the upload limit of "
            "the notebook; give its path or an http(s) address instead, or a smaller file."
        )
    if size > max_bytes:
        raise ImageError(
            f"{name} has {size / 2**20:.1f} MiB; the limit is {max_bytes / 2**20:.1f} MiB. Save "
            f"it smaller, or call open_image(..., max_bytes={size:_}) and use the result."
        )
    return Content(name, bytes(buffer))


def _kind(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    return "None" if value is None else f"a value of type {kind}"


def _not_taken(value: object) -> str:
    """The message for a source of a kind that open_image does not know."""
    hint = ""
    if value is None:
        hint = " Choose a picture first."
    elif hasattr(value, "permute"):
        hint = " Of a tensor give tensor.cpu().numpy(), height x width x channels."
    elif getattr(value, "closed", False) is True:
        hint = " This one is a file, and closed: give its path."
    elif hasattr(value, "read"):
        hint = " Of an open file give file.read()."
    elif isinstance(value, Iterable) and not isinstance(value, Mapping):
        hint = " Give one picture at a time, or the list to Llava.ask_batch."
    elif hasattr(value, "value"):
        hint = " Of a widget give widget.value."
    return f"open_image cannot use {_kind(value)}: give {TAKEN}.{hint}"


# Decoding: from the bytes of a file, or a PIL image, to upright RGB.


def decode(
    data: bytes, name: str, *, max_pixels: float = MAX_PIXELS, content_type: str = ""
) -> Image.Image:
    """Decode a file's bytes to upright RGB; `name` says in messages what they are.

    What fails as it is is tried again without its text, profiles and EXIF. Raises ImageError.
    """
    causes: list[Exception] = []
    with pixels.pillow_settings(data, max_pixels):
        for variant in (bytes, pixels.pixels_only, pixels.completed_jpeg):
            try:
                return pixels.read(variant(data), name, max_pixels, file=data)
            except ImageError:
                raise
            except _BOMBS as error:  # which name the number of pixels
                number = max(map(int, re.findall(r"\d+", str(error))), default=0)
                pixels.check_pixels((number, 1), name, min(max_pixels, number - 1))
            except Exception as error:  # decoders of foreign bytes raise every kind there is
                causes.append(error.with_traceback(None))  # whose frames hold a whole picture
    if isinstance(causes[0], UnidentifiedImageError):
        raise ImageError(_not_a_picture(data, name, content_type)) from causes[0]
    file_format = None
    with suppress(Exception):
        file_format = Image.open(io.BytesIO(data)).format
    raise ImageError(_not_decoded(name, file_format, causes[0])) from causes[0]


def from_pil(picture: Image.Image, max_pixels: float = MAX_PIXELS) -> Image.Image:
    """Return a new picture, upright RGB; `picture` stays as it is. Raises ImageError."""
    name = "The PIL image"
    pixels.check_pixels(picture.size, name, max_pixels)
    with pixels.pillow_settings(max_pixels=max_pixels):
        unread = bool(getattr(picture, "tile", None))  # a file's pixels are read when asked for
        try:
            picture.load()
        except Exception as error:
            file = getattr(picture, "fp", None)
            if "closed" in str(error) or (unread and file is None):
                raise ImageError(
                    f"{name} is closed, so its pixels cannot be read. Use it inside its `with` "
                    "block, or give the path of the file."
                ) from error
            try:
                file.seek(0)
                data = file.read()
            except Exception:  # no file, or one that cannot be read again
                raise ImageError(_not_decoded(name, picture.format, error)) from error
            return decode(data, name, max_pixels=max_pixels)
        return pixels.upright(pixels.to_rgb(picture), pixels.orientation_of(picture))


def _not_decoded(name: str, file_format: str | None, error: Exception) -> str:
    """The message for a picture that Pillow knows but could not decode."""
    if "cannot find loader" in str(error):
        return f"{name} is a {file_format} file, which Pillow cannot decode here: export it as PNG."
    what = f"the {file_format} file" if file_format else "it"
    return (
        f"{name} cannot be read in full ({plain(error)}): {what} is cut off or damaged, or holds "
        "pixels in a way that Pillow does not decode. Fetch, save or upload it again."
    )


# What people give by mistake: how it begins, and what to say.
_OTHERS = {
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)|.*<html": "is a web page, not a picture: "
    "open it in a browser, right-click the picture, copy the image address, and give that.",
    rb".*<svg": "is an SVG drawing, which has no pixels: convert it to PNG and give that.",
    rb"%PDF": "is a PDF document, not a picture: save the picture in it as PNG.",
    rb"PK\x03\x04": "is a ZIP archive, not a picture: unpack it and give one picture from it.",
    rb"\x1f\x8b": "is a gzip archive, not a picture: unpack it and give the picture inside.",
    rb"%!PS|\xc5\xd0\xd3\xc6": "is a PostScript (EPS) file, which only another program draws: "
    "export it as PNG.",
    rb"version https://git-lfs": "is a Git LFS pointer, not a picture: run `git lfs pull` and give "
    "the file again.",
    rb"\x1aE\xdf\xa3|\0\0\x01\xb3|....ftyp(?!hei[cx]|hevc|mif1|msf1|avi[fs])": "is a video, not a "
    "picture: save one frame of it as PNG.",
}
_PLUGINS = {  # by the format that they register
    "HEIF": (
        rb"....ftyp(hei[cx]|hevc|mif1|msf1)",
        "a HEIC photo: pip install pillow-heif, call pillow_heif.register_heif_opener()",
    ),
    "JXL": (
        rb"\xff\n|\0\0\0\x0cJXL \r\n\x87\n",
        "a JPEG XL picture: pip install pillow-jxl-plugin, import pillow_jxl",
    ),
}
_PICTURES = rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|8BPS|RIFF....WEBP|....ftyp"


def _not_a_picture(data: bytes, name: str, content_type: str) -> str:
    """The message for bytes that Pillow takes for no picture: what they are, and the repair."""
    said_to_be = re.search("html|svg", content_type)
    head = f"<{said_to_be[0]}".encode() if said_to_be else data[:1024]

    def begins(pattern: bytes) -> bool:
        return bool(re.match(pattern, head, re.DOTALL | re.IGNORECASE))

    for pattern, said in _OTHERS.items():
        if begins(pattern):
            return f"{name} {said}"
    for file_format, (pattern, said) in _PLUGINS.items():
        if begins(pattern) and file_format not in Image.OPEN:
            return f"{name} is {said} and open it again; or save it as JPEG."
    if begins(_PICTURES):
        return (
            f"{name} begins like a picture, but Pillow cannot open it: it is cut off or damaged "
            f"({len(data):,} bytes), or of a kind that Pillow does not know. Fetch, save or upload "
            "it again."
        )
    about = f", sent as {plain(content_type, 60)}" if content_type else ""
    text = data[:60].decode("utf-8", "ignore")
    if text and re.sub(r"[\n\t\r]", "", text).isprintable():
        about += f', which begins with the text "{plain(text)}"'
    return (
        f"{name} is not a picture that Pillow can open ({len(data):,} bytes{about}). Give a JPEG, "
        "PNG, GIF, WebP, BMP, TIFF or AVIF file."
    )


def data_uri(image: Image.Image, side: int = 320) -> str:
    """Return a small JPEG of an RGB picture, `side` pixels at the longer side, as a data URI."""
    small = image.copy()
    small.thumbnail((side, side), reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
