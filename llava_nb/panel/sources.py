"""What a person chose: given a name, uploaded by ipywidgets 7 or 8, opened with a note about it."""

from __future__ import annotations

import contextvars
import io
import os
import re
import threading
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
SETTLE = 0.5  # seconds until a page that connects anew has asked for everything
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

    Of an upload `size` is how many bytes the browser said it has.
    """

    given: Any = field(repr=False)
    name: str
    size: int | None = None

    def open(self) -> Picture:
        """Open it. Raises ImageError, whose message is the repair."""
        given, name = self.given, plain(self.name, 80)
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
        return Picture(name, image, file, done, data_uri(image))


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


class WatchedUpload(widgets.FileUpload):
    """A FileUpload that calls `when_asked` if a page asks for its whole state."""

    when_asked: Callable[[], None] | None = None

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the state; without `key` a page has been connected, anew or another one."""
        if key is None and self.when_asked is not None:
            self.when_asked()
        return super().get_state(key, drop_defaults)


class UploadButton(widgets.HBox):
    """A box with an upload button, which is read, emptied, and replaced when it has died.

    An upload larger than the connection carries never arrives, tells nobody, and leaves a button
    that does nothing more; but the page then connects anew and asks every widget for its state.
    `arrived` is called with a tuple of Sources, `reconnected` once the button was replaced for
    that reason: both in any thread.
    """

    def __init__(
        self, arrived: Callable[[tuple[Source, ...]], None], reconnected: Callable[[], None]
    ) -> None:
        self._arrived, self._reconnected = arrived, reconnected
        self._timer: threading.Timer | None = None
        # Voila runs the notebook first and connects its page then, asking twice: no loss.
        in_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
        self._expected = 2 if in_voila else 0
        # ipykernel 7 sends a message to where the request came from that is being answered. The
        # one by which a lost page is noticed is gone when the new button is there: so that one is
        # made in the context of the cell.
        self._context = contextvars.copy_context()
        super().__init__(layout=widgets.Layout(width="auto"))
        self.renew()

    @property
    def widget(self) -> widgets.FileUpload:
        """The button of this moment."""
        return self.children[0]

    def renew(self) -> None:
        """Put a new button in place of the old one."""
        old = self.children
        new = WatchedUpload(accept="image/*", multiple=True, description="Upload pictures")
        new.layout.width = "auto"
        # On 7 the value does not change when the same file comes twice; the counter does.
        new.observe(self._take, "_counter" if new.has_trait("_counter") else "value")
        new.add_class("llava-upload")
        new.when_asked = self._when_asked
        self.children = (new,)
        for each in old:
            each.when_asked = None
            each.unobserve_all()
            each.close()

    def _take(self, change: Mapping[str, Any]) -> None:
        if change["new"]:  # not when it is emptied
            self._arrived(take_uploads(change["owner"]))

    def _when_asked(self) -> None:
        if self._expected:
            self._expected -= 1
        elif self._timer is None or not self._timer.is_alive():
            # Not now: whoever asks is going through the list of all widgets.
            self._timer = threading.Timer(SETTLE, self._context.copy().run, [self._replace])
            self._timer.daemon = True
            self._timer.start()

    def _replace(self) -> None:
        try:
            self.renew()
        finally:
            self._reconnected()


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
