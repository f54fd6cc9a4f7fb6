"""Pictures as the panel shows them: opened, with a thumbnail and what was done to them.

Covered: a name for whatever was given, uploads that arrive empty or cut, the notes under a
thumbnail, the middle square. Not covered: reading upload buttons (`uploads.py`), opening
itself (`images.py`).
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from ..download import fetch
from ..errors import ImageError, plain
from ..images import MAX_BYTES, MAX_PIXELS, MAX_REDIRECTS, TIMEOUT, decode, open_image

THUMBNAIL = 320  # pixels of its longer side
TOO_LARGE = (
    "Notebooks lose large uploads: a default Jupyter from 10 MB on, others earlier. Put the file "
    "beside the notebook and give its path, give its http(s) address, or save it smaller."
)


@dataclass(frozen=True)
class Source:
    """Something to open: `given` is what `open_image` takes.

    Of an upload `size` is how many bytes the browser said it has.
    """

    given: Any = field(repr=False)
    name: str
    size: int | None = None


@dataclass(frozen=True)
class PanelPicture:
    """An opened picture; `file` and `done` say what it was and what was done to it.

    The model makes a square of it, by padding if `pads`, else by leaving out the ends.
    With `crop` it is given the middle square only.
    """

    name: str
    image: Image.Image = field(repr=False, compare=False)
    file: str = ""
    done: tuple[str, ...] = ()
    pads: bool = True
    crop: bool = False

    def framed(self, crop: bool) -> PanelPicture:
        """The same picture, as a whole or its middle square."""
        return self if crop == self.crop else replace(self, crop=crop)

    @cached_property
    def seen(self) -> Image.Image:
        """What the model is given."""
        width, height = self.image.size
        side = min(width, height)
        if not self.crop or width == height:
            return self.image
        left, top = (width - side) // 2, (height - side) // 2
        return self.image.crop((left, top, left + side, top + side))

    @cached_property
    def thumbnail(self) -> bytes:
        """What the model is given, as a small JPEG."""
        small = self.seen.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=85)
        return file.getvalue()

    @property
    def notes(self) -> str:
        """Size, file and what was done, in one line."""
        width, height = self.image.size
        square = []
        if width != height:
            square = ["only the middle square"] if self.crop or not self.pads else ["padded"]
        done = [*self.done, *square]
        told = ", ".join(filter(None, [f"{width} x {height} pixels", self.file]))
        return f"{told}; {', '.join(done)}" if done else told


def data_uri(jpeg: bytes) -> str:
    """Return a thumbnail as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def sources_of(given: tuple[Any, ...]) -> tuple[Source, ...]:
    """Name what a person gave: paths, addresses, bytes, pictures, or a dict of named bytes."""
    sources = []
    for each in given:
        if isinstance(each, Source):
            sources.append(each)
        elif isinstance(each, Mapping) and each and all(map(_is_buffer, each.values())):
            sources += [Source(bytes(data), str(name)) for name, data in each.items()]
        else:
            sources.append(Source(each, _name_of(each)))
    return tuple(sources)


def _is_buffer(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _is_address(given: Any) -> bool:
    return isinstance(given, str) and bool(re.match(r"\s*https?:", given, re.IGNORECASE))


def _name_of(given: Any) -> str:
    if _is_address(given):
        try:
            parts = urlsplit(given.strip())
            return unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc
        except ValueError:
            return "address"
    if isinstance(given, str) and given.lstrip()[:5].lower() == "data:":
        return "data URI"
    if isinstance(given, str | os.PathLike):
        return Path(os.fsdecode(given)).name or os.fsdecode(given)
    return "picture"


def open_source(source: Source, *, pads: bool = True) -> PanelPicture:
    """Open one source. Raises ImageError, whose message is the repair."""
    name, given = plain(source.name, 80), source.given
    header, size = given if isinstance(given, Image.Image) else None, None
    if _is_buffer(given):
        _check_arrived(source)
        header, size = io.BytesIO(given), len(given)
        image = open_image({"name": source.name, "content": given})
    elif _is_address(given):
        download = fetch(
            given.strip(),
            max_bytes=MAX_BYTES,
            timeout=TIMEOUT,
            max_redirects=MAX_REDIRECTS,
            allow_private=False,
        )
        header, size = io.BytesIO(download.data), len(download.data)
        about = {"max_pixels": MAX_PIXELS, "content_type": download.content_type}
        image = decode(download.data, download.name, **about)
    else:
        image = open_image(given)
        if isinstance(given, str | os.PathLike) and name != "data URI":
            header = Path(given).expanduser()
            size = header.stat().st_size
    file, done = _read_header(header)
    told = " ".join(filter(None, [file, _in_kib(size)]))
    picture = PanelPicture(name, image, told, done, pads)
    picture.thumbnail  # noqa: B018  (made here, by the worker, and kept)
    return picture


def _check_arrived(source: Source) -> None:
    arrived = len(source.given)
    if arrived == 0:
        raise ImageError(f"Of '{plain(source.name)}' nothing arrived (0 bytes). {TOO_LARGE}")
    if source.size is not None and arrived < source.size:
        raise ImageError(
            f"Of '{plain(source.name)}' only {arrived:,} of {source.size:,} bytes arrived. "
            f"{TOO_LARGE}"
        )


def _in_kib(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _read_header(header: Any) -> tuple[str, tuple[str, ...]]:
    """Return the file's format and what opening it had to do, from its header alone."""
    try:
        opened = header if isinstance(header, Image.Image) else Image.open(header)
        return opened.format or "", tuple(_done_to(opened))
    except Exception:  # the picture itself is open; a note about it is not worth a fault
        return "", ()


def _done_to(opened: Image.Image) -> list[str]:
    done = []
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        done.append("its first frame")
    if opened.getexif().get(0x0112, 1) in range(2, 9):  # EXIF's orientation
        done.append("turned upright")
    if opened.has_transparency_data:
        done.append("laid on white")
    elif opened.mode != "RGB":
        done.append(f"made RGB (was {opened.mode})")
    return done
