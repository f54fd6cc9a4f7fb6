"""What a person calls "these pictures", as a list of entries: a name each, and how to read it.

Nothing is opened here but lists: folders, archives, tables. Covered: a folder, a glob, a list of
paths and addresses, a column of a CSV file, a zip, one picture. Not covered: reading an entry
(`entries.py`).
"""

from __future__ import annotations

import csv
import glob
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, plain
from ..images import no_such_file
from .entries import AddressEntry, Entry, FileEntry, ZipEntry
from .rows import printable
from .sheet import sheet_path

ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .bmp .dib .tif .tiff .avif .heic .heif "
    ".jp2 .j2k .ppm .pgm .pbm .pnm".split()
)
COLUMN_NAMES = ("file", "path", "picture", "image", "url", "address", "filename", "file_name")


def find_pictures(
    source: Any, *, recursive: bool = False, column: str | None = None
) -> list[Entry]:
    """Return what is to be captioned, in the order of its names; see `caption_folder`.

    Raises LlavaNbError if there is nothing, or `source` is of no kind known here.
    """
    if isinstance(source, str | os.PathLike):
        entries = _of_text(source, recursive, column)
    elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | dict):
        entries = [_of_item(item, number) for number, item in enumerate(source, start=1)]
    else:
        raise LlavaNbError(
            f"caption_folder cannot use a value of type {type(source).__name__}: give a folder, a "
            "pattern such as 'photos/*.jpg', a list of paths or addresses, a CSV file or a zip."
        )
    if not entries:
        raise LlavaNbError("The list of pictures is empty: give at least one path or address.")
    return list({entry.name: entry for entry in entries}.values())  # each name once


def _of_text(source: str | os.PathLike, recursive: bool, column: str | None) -> list[Entry]:
    text = os.fsdecode(source)
    if isinstance(source, str) and re.match(r"\s*https?:", text, re.IGNORECASE):
        return [_of_item(source, 1)]
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path, recursive)
    if glob.has_magic(text) and not path.exists():
        return _of_pattern(text, str(path))
    if column is not None or path.suffix.lower() == ".csv":
        return _of_table(path, column)
    if not path.exists():
        raise LlavaNbError(no_such_file(path, text))
    if zipfile.is_zipfile(path):
        return _of_archive(path)
    if path.suffix.lower() not in ENDINGS:
        raise LlavaNbError(
            f"'{plain(text)}' is neither a folder, a CSV file, a zip nor a picture. Give one of "
            f"those; pictures end in {', '.join(sorted(ENDINGS)[:9])} and so on."
        )
    return [FileEntry(printable(path.name), str(path))]


def leave_out_sheet(entries: Sequence[Entry], output: Path) -> list[Entry]:
    """Return the entries without the contact sheet that an earlier run wrote among them."""
    sheet = os.path.abspath(sheet_path(output))
    return [each for each in entries if os.path.abspath(getattr(each, "path", "")) != sheet]


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture; names with a dot in front are the system's."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS


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
    return [FileEntry(printable(name), os.path.join(folder, name)) for name in places]


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
    places = sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    if not places:
        raise LlavaNbError(
            f"Nothing matches '{plain(text)}'. '*' stands for any name and '**' for any folders: "
            "'photos/**/*.jpg'."
        )
    return [FileEntry(printable(place), place) for place in places]


def _of_item(item: Any, number: int, beside: Path | None = None) -> Entry:
    if isinstance(item, str) and re.match(r"\s*https?:", item, re.IGNORECASE):
        return AddressEntry(printable(item.strip()), item.strip())
    if not isinstance(item, str | os.PathLike):
        raise LlavaNbError(
            f"Number {number} of the list is of type {type(item).__name__}; give paths and "
            "addresses. Pictures in memory go to llava.ask_batch(pictures, prompt)."
        )
    text = os.fsdecode(item)
    place = os.path.join(beside, text) if beside is not None and text.strip() else text
    return FileEntry(printable(text), place)


def _of_table(path: Path, column: str | None) -> list[Entry]:
    """The cells of one column; paths are taken from where the table is."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            name = _choose(path, list(reader.fieldnames or ()), column)
            cells = [row[name] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, FileNotFoundError):
            raise LlavaNbError(no_such_file(path, str(path))) from error
        raise LlavaNbError(
            f"The table '{plain(path)}' cannot be read ({plain(error)}). Save it as CSV in UTF-8."
        ) from error
    filled = [cell for cell in cells if cell.strip()]
    if not filled:
        raise LlavaNbError(f"Column '{plain(name)}' of '{plain(path)}' is empty: name another.")
    return [_of_item(cell, number, path.parent) for number, cell in enumerate(filled, start=2)]


def _choose(path: Path, names: Sequence[str], column: str | None) -> str:
    if column is None:
        known = [name for name in names if name.strip().lower() in COLUMN_NAMES]
        choice = names if len(names) == 1 else known
        if len(choice) == 1:
            return choice[0]
    elif column in names:
        return column
    told = f"has no column {column!r}" if column is not None else "does not say which column to use"
    columns = ", ".join(repr(plain(name, 40)) for name in names[:12]) or "none"
    raise LlavaNbError(
        f"'{plain(path)}' {told}. Its columns are: {columns}. Say which one holds paths or "
        "addresses: caption_folder(..., column='...')."
    )


def _of_archive(path: Path) -> list[Entry]:
    with zipfile.ZipFile(path) as archive:
        inside = [
            ZipEntry(printable(each.filename), str(path), each.filename, each.file_size, each.CRC)
            for each in archive.infolist()
            if is_picture_name(each.filename.rpartition("/")[2])
            and not each.filename.startswith("__MACOSX/")
        ]
    if not inside:
        raise LlavaNbError(f"There are no pictures in the zip '{plain(path)}'. Give another one.")
    return sorted(inside, key=lambda entry: entry.name)
