"""What a person chose: given a name, uploaded by ipywidgets 7 or 8, opened with a note about it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import ipywidgets as widgets
from PIL import Image

from ..errors import ImageError, plain
from ..images import data_uri, decode, is_address, open_image, read

TOO_LARGE = (
    "Notebooks lose large uploads: a default Jupyter from 10 MB on, others earlier. Put the file "
    "beside the notebook and give its path, give its http(s) address, or save it smaller."
)
BUFFERS = bytes | bytearray | memoryview
QUOTED = r"\".+\"|'.+'"
SHOWN = 480  # pixels of the longer side on the page
_ORIENTATION = 0x0112  # in EXIF; 1 is upright


@dataclass(frozen=True)
class Picture:
    """An opened picture; `file` and `done` say what it was and what opening it had to do."""

    name: str
    image: Image.Image = field(repr=False, compare=False)
    file: str = ""
    done: tuple[str, ...] = ()
    thumbnail: str = field(default="", repr=False)

    def notes(self, square: str) -> str:
        """Size, file and what was done, in one line; `square` is how the model makes one of it."""
        width, height = self.image.size
        done = [*self.done, square] if square and width != height else self.done
        notes = ", ".join(filter(None, [f"{width} x {height} pixels", self.file]))
        return f"{notes}; {', '.join(done)}" if done else notes


@dataclass(frozen=True)
class Source:
    """Something to open: `given` is what `open_image` takes.

    Of an upload `size` is how many bytes the browser said it has. If the page shrank the picture,
    `shrunk_from` is its width and height before. `limit` is set if the page could not shrink it and
    did not send it either: the bytes that the connection carries.
    """

    given: Any = field(repr=False)
    name: str
    size: int | None = None
    shrunk_from: tuple[int, int] | None = None
    limit: int | None = None

    def open(self) -> Picture:
        """Open it. Raises ImageError, whose message is the repair."""
        given, name = self.given, plain(self.name, 80)
        if self.limit is not None:
            raise ImageError(
                f"'{name}' was not sent: the browser cannot open it to shrink it, and with "
                f"{self.size or 0:,} bytes it is over the {self.limit:,} that go through to the "
                "notebook. Save it as JPEG or PNG and choose that; or put the file beside the "
                "notebook and give its path."
            )
        if isinstance(given, BUFFERS):
            if self.size is not None and 0 < len(given) < self.size:
                raise ImageError(
                    f"Of '{name}' only {len(given):,} of {self.size:,} bytes arrived. {TOO_LARGE}"
                )
            given = {"name": self.name, "content": given}
        if isinstance(given, str | os.PathLike | Mapping):
            found = read(given)
            image = decode(found.data, found.name, content_type=found.content_type)
            kind, done = _read_header(io.BytesIO(found.data))
            size = len(found.data) / 2**10
            size = f"{size / 2**10:.1f} MiB" if size >= 2**10 else f"{size:.1f} KiB"
            file = f"{kind} {size}".strip()
        else:
            image = open_image(given)
            file, done = _read_header(given)
        if self.shrunk_from is not None:
            width, height = self.shrunk_from
            done = (f"shrunk from {width} x {height} in the page", *done)
        return Picture(name, image, file, done, data_uri(image, SHOWN))


def sources_of(given: tuple[Any, ...]) -> tuple[Source, ...]:
    """Name what a person gave: paths, addresses, bytes, pictures, or a dict of named bytes."""
    sources = []
    for each in given:
        if isinstance(each, Mapping) and all(isinstance(it, BUFFERS) for it in each.values()):
            sources += [Source(bytes(data), str(name)) for name, data in each.items()]
        else:
            sources.append(Source(each, _name_of(each)))
    return tuple(sources)


def _name_of(given: Any) -> str:
    if not isinstance(given, str | os.PathLike):
        return "picture"
    text = os.fsdecode(given).strip()
    if text[:5].lower() == "data:":
        return "data URI"
    if is_address(text):
        text = unquote(re.split(r"[?#]", text)[0])
    return os.path.basename(text.rstrip("/")) or text


def _read_header(file: Any) -> tuple[str, tuple[str, ...]]:
    """Return a file's format and what opening it had to do, from its header alone."""
    try:
        picture = file if isinstance(file, Image.Image) else Image.open(file)
        done = []
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            done.append("its first frame")
        if picture.getexif().get(_ORIENTATION, 1) in range(2, 9):
            done.append("turned upright")
        if picture.has_transparency_data:
            done.append("laid on white")
        elif picture.mode != "RGB":
            done.append(f"made RGB (was {picture.mode})")
        return picture.format or "", tuple(done)
    except Exception:  # the picture itself is open; a note about it is not worth a fault
        return "", ()


class UploadButton(widgets.FileUpload):
    """An upload button of ipywidgets, emptied as soon as something arrives.

    `arrived` is called with a tuple of Sources, in any thread.
    """

    def __init__(self, arrived: Callable[[tuple[Source, ...]], None], **options: Any) -> None:
        super().__init__(accept="image/*", multiple=True, **options)
        self._arrived = arrived
        # On 7 the value does not change when the same file comes twice; the counter does.
        self.observe(self._take, "_counter" if self.has_trait("_counter") else "value")
        self.add_class("llava-upload")

    def _take(self, change: Mapping[str, Any]) -> None:
        if change["new"]:  # not when it is emptied
            self._arrived(take_uploads(self))


def take_uploads(widget: widgets.FileUpload) -> tuple[Source, ...]:
    """Take the files out of an upload button, whose state is kept in the saved notebook."""
    if not widget.has_trait("_counter"):
        files = [(each, each["content"]) for each in widget.value]
        widget.value = ()
    else:  # 7: the value is by name, and two files may have one name
        files = list(zip(widget.metadata, widget.data, strict=False)) or [({}, b"")]
        # In this order: the value is made of these two when the counter changes.
        widget.metadata, widget.data = [], []
        widget._counter = 0
    return tuple(
        Source(bytes(data), about.get("name", ""), about.get("size")) for about, data in files
    )


def pressed_enter(before: str, now: str) -> bool:
    """Whether a text changed by one new line at its end: a text area tells of no keys."""
    return now.endswith("\n") and now.count("\n") == before.count("\n") + 1


def paths_in(text: str) -> list[str]:
    """Return what stands on each line, without the quotes that file managers put around it."""
    lines = (line.strip() for line in text.splitlines())
    return [line[1:-1] if re.fullmatch(QUOTED, line) else line for line in lines if line]
