"""open_image(): whatever a person calls a picture, as an upright RGB picture.

Covered: paths, http(s) addresses, bytes, data URIs, PIL images, numpy arrays and upload values of
ipywidgets 7 and 8; the limit in bytes; messages that say what to give instead.
Not covered: decoding (pixels.py), the network (remote.py), many pictures (`folder/`), and padding
to a square, which belongs to the model.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image

from .errors import ImageError
from .pixels import decode, from_array, to_rgb
from .repairs import TAKEN, no_such_file, not_taken, plain

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 100_000_000
TIMEOUT = 20.0
MAX_REDIRECTS = 5

_SCHEMES_WITHOUT_SLASHES = ("about", "blob", "file", "ftp", "javascript", "mailto", "view-source")


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
    - a numpy array, height x width, optionally x 1, 3 or 4 channels, of uint8, bool, uint16
      (0 to 65535) or floats from 0 to 1;
    - the value of an ipywidgets FileUpload, version 7 (a dict by file name) or 8 (a tuple of
      dicts), or one entry of it; of several files the last.

    Of an animation the first frame counts. Limits: `max_bytes` (50 MiB) for the file, counted
    after any content encoding; `max_pixels` (100 million), checked before decoding; `timeout`
    (20 seconds) for the whole of a download; `max_redirects` (5). Addresses inside a private
    network, or of this machine, are refused unless `allow_private` is true.

    Raises ImageError, whose message is the repair.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source, "The PIL image", max_pixels=max_pixels)
    numpy = sys.modules.get("numpy")  # whoever has an array has imported numpy
    if numpy is not None and isinstance(source, numpy.ndarray):
        return from_array(source, max_pixels=max_pixels)
    content_type = ""
    if isinstance(source, str) and re.match(r"\s*https?:", source, re.IGNORECASE):
        from .remote import fetch  # loads requests

        download = fetch(
            source.strip(),
            max_bytes=max_bytes,
            timeout=timeout,
            max_redirects=max_redirects,
            allow_private=allow_private,
        )
        name, data, content_type = download.name, download.data, download.content_type
    elif isinstance(source, str) and source.lstrip()[:5].lower() == "data:":
        name, data = "The data URI", _from_data_uri(source.strip(), max_bytes)
    elif isinstance(source, str | os.PathLike):
        name, data = _from_path(source, max_bytes)
    elif isinstance(source, bytes | bytearray | memoryview):
        name, data = "The bytes given", _from_buffer(source, "The bytes given", max_bytes)
    else:
        name, data = _from_upload(source, max_bytes)
    return decode(data, name, max_pixels=max_pixels, content_type=content_type)


def _check_size(size: int, name: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageError(
            f"{name} has {size / 2**20:.1f} MiB; the limit is {max_bytes / 2**20:.1f} MiB. Save "
            f"it smaller, or call open_image(..., max_bytes={size:_}) and use the result."
        )


def _from_buffer(buffer: bytes | bytearray | memoryview, name: str, max_bytes: int) -> bytes:
    size = memoryview(buffer).nbytes
    if size == 0:
        raise _nothing_arrived(name)
    _check_size(size, name, max_bytes)
    return bytes(buffer)


def _nothing_arrived(name: str) -> ImageError:
    return ImageError(
        f"{name}: nothing arrived (0 bytes). The file was probably over the upload limit of the "
        "notebook; give its path or an http(s) address instead, or a smaller file."
    )


def _from_upload(value: Any, max_bytes: int) -> tuple[str, bytes]:
    if isinstance(value, Mapping | tuple | list) and not value:
        raise _nothing_arrived("The upload")
    entry = value
    if isinstance(value, tuple | list):
        entry = value[-1]
    elif isinstance(value, Mapping) and not _is_upload_entry(value):
        entry = list(value.values())[-1]
    if not _is_upload_entry(entry):
        raise ImageError(not_taken(value))
    told = entry.get("name") or (entry.get("metadata") or {}).get("name") or "without a name"
    name = f"The upload '{plain(told)}'"
    return name, _from_buffer(entry["content"], name, max_bytes)


def _is_upload_entry(value: Any) -> bool:
    buffers = (bytes, bytearray, memoryview)
    return isinstance(value, Mapping) and isinstance(value.get("content"), buffers)


def _from_data_uri(uri: str, max_bytes: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise ImageError(
            f"The data URI '{plain(uri, 80)}' has no comma, so no content: it reads "
            "data:image/png;base64,<content>. Copy it again in full."
        )
    data = unquote_to_bytes(payload)
    if header.lower().replace(" ", "").endswith(";base64"):
        packed = b"".join(data.split()).rstrip(b"=")
        try:
            data = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
        except binascii.Error as error:
            raise ImageError(
                f"The data URI '{plain(uri, 80)}' does not hold valid base64 ({error}). "
                "Copy it again in full."
            ) from error
    if not data:
        raise ImageError(f"The data URI '{plain(uri, 80)}' has no content after the comma.")
    _check_size(len(data), "The data URI", max_bytes)
    return data


def _from_path(source: str | os.PathLike, max_bytes: int) -> tuple[str, bytes]:
    text = os.fsdecode(source)
    _refuse_other_schemes(text, is_text=isinstance(source, str))
    name = f"'{plain(text)}'"
    try:
        path = Path(text).expanduser()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(
                f"{name} is a folder: give one picture in it, or caption them all with "
                f"caption_folder(llava, {name}, 'captions.csv')."
            )
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name} is a device or a pipe: give the path of an image file.")
        _check_size(status.st_size, name, max_bytes)
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(no_such_file(path, text)) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} cannot be read ({reason}): give {TAKEN}.") from error
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): save, copy or upload it again.")
    _check_size(len(data), name, max_bytes)
    return name, data


def _refuse_other_schemes(text: str, *, is_text: bool) -> None:
    if not text.strip():
        raise ImageError(f"The source is empty text: give {TAKEN}.")
    found = re.match(r"\s*([a-z][a-z0-9+.-]+):(//)?", text, re.IGNORECASE)
    if not found:
        return
    scheme, slashes = found[1].lower(), found[2]
    if not is_text and scheme in ("http", "https"):
        raise ImageError(f"Give the address as text, not as a Path (it reads '{plain(text)}' now).")
    if slashes or scheme in _SCHEMES_WITHOUT_SLASHES:
        repair = "the path itself, without 'file://'" if scheme == "file" else "a path"
        raise ImageError(
            f"'{plain(text)}' is a {scheme}: address; only http and https are opened. "
            f"Save the picture and give {repair}, or give its http(s) address."
        )
