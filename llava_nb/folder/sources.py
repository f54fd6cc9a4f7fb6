"""What a person calls "these pictures", as a list of entries: a name each, and how to read it."""

from __future__ import annotations

import glob
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from ..download import Content
from ..errors import LlavaNbError, plain
from ..images import decode, is_address, no_such_file, read, read_file
from .table import printable

ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .bmp .dib .tif .tiff .avif .heic .heif "
    ".jp2 .j2k .jxl .ppm .pgm .pbm .pnm .tga .qoi .dds".split()
)
USE_A_LIST = {
    "a table": (".csv .tsv .txt .json .jsonl .parquet .xlsx", "pandas.read_csv('t.csv')['photo']"),
    "an archive": (".zip .tar .gz .tgz .7z .rar", "shutil.unpack_archive('a.zip', 'photos')"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture: what its row is called, and its path or, if `is_address`, its address."""

    name: str
    place: str
    is_address: bool = False

    def stamp(self) -> tuple[int | None, str]:
        """Return a file's size and when it was changed; (None, "") if it cannot be looked at.

        The time is ISO 8601 in UTC. Of an address nothing is known: asking is nearly a download.
        """
        if self.is_address:
            return None, ""
        try:
            status = os.stat(self.place)
        except (OSError, ValueError):
            return None, ""
        return status.st_size, _moment(status.st_mtime_ns)

    def read(self) -> Content:
        """Return the bytes, what messages call them, and their content type. Raises ImageError."""
        # A Path, so that a file called "about:me.png" is not taken for an address of a browser.
        return read(self.place) if self.is_address else read_file(Path(self.place))


@dataclass(frozen=True, slots=True)
class Read:
    """A picture as it was read: `picture`, or the `error` that says why not.

    `stamp` is the hash of the file's bytes, its size, and when it was changed.
    """

    name: str
    stamp: tuple[str, int | None, str]
    picture: Image.Image | None = field(default=None, repr=False)
    error: Exception | None = None


def read_picture(entry: Entry) -> Read:
    """Read, hash and decode one picture; whatever goes wrong is in the result."""
    size, modified = entry.stamp()  # before reading: a change meanwhile is seen the next time
    digest = ""
    try:
        found = entry.read()
        size, digest = len(found.data), hashlib.sha256(found.data).hexdigest()
        picture = decode(found.data, found.name, content_type=found.content_type)
        return Read(entry.name, (digest, size, modified), picture)
    except Exception as error:  # one picture, whatever it holds, does not end the run
        # Its frames hold on to the bytes.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return Read(entry.name, (digest, size, modified), error=error)


def find_pictures(source: Any, *, recursive: bool = False) -> list[Entry]:
    """Return what is to be captioned, each name once; see `caption_folder`.

    Raises LlavaNbError if there is nothing, or `source` is of no kind known here.
    """
    if isinstance(source, str | os.PathLike):
        entries = _of_text(source, recursive)
    elif _is_list(source):
        spellings: dict[str, dict[str, str]] = {}
        items = sorted(source, key=str) if isinstance(source, set | frozenset) else source
        entries = [_of_item(item, place, spellings) for place, item in enumerate(items, start=1)]
    else:
        hint = " Of a table give one column: table['file']." if hasattr(source, "columns") else ""
        raise LlavaNbError(
            f"caption_folder cannot use a value of type {type(source).__name__}: give a folder, a "
            f"pattern such as 'photos/*.jpg', or a list of paths and addresses.{hint}"
        )
    if not entries:
        raise LlavaNbError("The list of pictures is empty: give at least one path or address.")
    return list({entry.name: entry for entry in entries}.values())


def _is_list(source: Any) -> bool:
    other = isinstance(source, bytes | bytearray | memoryview | Mapping)
    return isinstance(source, Iterable) and not (
        other or hasattr(source, "columns") or hasattr(source, "read")
    )


def _of_item(item: Any, number: int, spellings: dict[str, dict[str, str]]) -> Entry:
    if is_address(item):
        return Entry(printable(item.strip()), item.strip(), is_address=True)
    if not isinstance(item, str | os.PathLike):
        raise LlavaNbError(
            f"Number {number} of the list is of type {type(item).__name__}; give paths and "
            "addresses. Pictures in memory go to llava.ask_batch(pictures, prompt)."
        )
    text = os.fsdecode(item)
    return Entry(printable(text), _on_disk(os.path.expanduser(text), spellings))


def _of_text(source: str | os.PathLike, recursive: bool) -> list[Entry]:
    if is_address(source):
        return [_of_item(source, 1, {})]
    text = os.fsdecode(source)
    if not text.strip():
        raise LlavaNbError("The folder is empty text: give a folder, a pattern or a list.")
    path = Path(_on_disk(os.path.expanduser(text), {}))
    try:
        os.lstat(path)
        there = True
    except OSError:
        there = False
    except ValueError as error:  # half a character, or NUL
        raise LlavaNbError(f"'{plain(text)}' can be no path ({error}): give another.") from error
    if os.path.isdir(path):
        return _of_folder(path, recursive)
    if not there:
        if glob.has_magic(text):
            return _of_pattern(text, str(path))
        raise LlavaNbError(no_such_file(path, text))
    for what, (endings, repair) in USE_A_LIST.items():
        if path.suffix.lower() in endings.split():
            raise LlavaNbError(
                f"'{plain(text)}' is {what}, not a picture. Give a folder or a list, such as what "
                f"{repair} gives."
            )
    return [Entry(printable(path.name), str(path))]


def _of_folder(folder: Path, recursive: bool) -> list[Entry]:
    below: list[str] = []
    try:
        places = sorted(_walk(str(folder), "", recursive, set(), below))
    except OSError as error:
        raise LlavaNbError(
            f"The folder '{plain(folder)}' cannot be read ({error.strerror or error}). In Colab "
            "mount Drive first; elsewhere check that you may read it."
        ) from error
    if not places:
        hint = f" It has folders ({plain(below[0])}): add recursive=True." if below else ""
        raise LlavaNbError(
            f"There are no pictures in '{plain(folder)}': no file ends in .jpg, .png, .webp or "
            f"another of {len(ENDINGS)} endings.{hint}"
        )
    return [Entry(printable(name), os.path.join(folder, name)) for name in places]


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture; names with a dot in front are the system's."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS


def _walk(
    folder: str, inside: str, recursive: bool, seen: set[tuple[int, int]], below: list[str]
) -> Iterator[str]:
    """Give the pictures' names; folders are entered once, however many links lead there."""
    status = os.stat(folder)
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        name = f"{inside}{entry.name}"
        if not os.path.isdir(entry.path):
            if is_picture_name(entry.name):
                yield name
            continue
        status = os.stat(entry.path)
        if entry.name.startswith(".") or (status.st_dev, status.st_ino) in seen:
            continue
        below.append(entry.name)
        if recursive:
            try:
                yield from _walk(entry.path, f"{name}/", True, seen, below)
            except OSError:
                yield name  # reading it says why, in its row


def _of_pattern(text: str, pattern: str) -> list[Entry]:
    """The files that match; what is there under the very name that is written counts first."""
    start, parts = "", Path(pattern).parts
    while parts and os.path.isdir(os.path.join(start, parts[0])):
        start, parts = os.path.join(start, parts[0]), parts[1:]
    readings = (  # brackets of a folder as they stand; as a set of letters; all as they stand
        os.path.join(glob.escape(start), *parts),
        pattern,
        pattern.replace("[", "[[]"),
    )
    for reading in readings:
        found = glob.iglob(reading, recursive=True)
        places = sorted(place for place in found if not os.path.isdir(place))
        # As in a folder; but whoever asks for "*.dat" means files of that ending.
        places = [place for place in places if is_picture_name(os.path.basename(place))] or places
        if places:
            return [Entry(printable(place), place) for place in places]
    brackets = " Brackets stand for one of the letters in them." if "[" in text else ""
    raise LlavaNbError(
        f"Nothing matches '{plain(text)}'. '*' stands for any name and '**' for any folders: "
        f"'photos/**/*.jpg'.{brackets}"
    )


def _on_disk(path: str, spellings: dict[str, dict[str, str]]) -> str:
    """Return a path as the disk spells it, where that is another Unicode form of the same text.

    A Mac takes letters and their marks apart, other systems do not. `spellings` holds the names
    of folders that were looked through.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    parent, name = os.path.split(path)
    if not name or parent == path:
        return path
    parent = _on_disk(parent, spellings)
    if parent not in spellings:
        try:
            names = os.listdir(parent or ".")
        except (OSError, ValueError):
            names = []
        spellings[parent] = {unicodedata.normalize("NFC", each): each for each in names}
    known = spellings[parent].get(unicodedata.normalize("NFC", name), name)
    return os.path.join(parent, known)


def _moment(nanoseconds: int) -> str:
    """To the microsecond, without going through a float."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds} ns"  # a time that no calendar has
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
