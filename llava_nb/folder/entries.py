"""One picture to be captioned: a file, an address, a member of a zip. How to read and to know it.

Every entry has a `name`, which is what its row is called; `stamp()`, which costs no reading and
tells whether it may have changed; and `read()`. Not covered: finding entries
(`sources.py`), decoding what was read (`pixels.py`).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone

from ..errors import ImageError, plain
from ..images import MAX_BYTES, MAX_REDIRECTS, TIMEOUT, check_size, read_file


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a picture's file, and what messages call it."""

    shown: str
    data: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file. Its stamp is size and time of the last change."""

    name: str
    path: str

    def stamp(self) -> tuple[int | None, str]:
        """Return (bytes, ISO 8601 in UTC); (None, "") for what cannot be looked at."""
        try:
            status = os.stat(os.path.expanduser(self.path))
        except (OSError, ValueError):
            return None, ""
        return status.st_size, _moment(status.st_mtime_ns)

    def read(self) -> Content:
        """Return the bytes. Raises ImageError."""
        if os.path.islink(self.path) and not os.path.exists(self.path):
            raise ImageError(
                f"'{plain(self.path)}' is a link to '{plain(os.readlink(self.path))}', and there "
                "is no file. Put the picture there, or delete the link."
            )
        found = read_file(self.path)
        return Content(found.name, found.data)


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """An http or https address. It has no stamp: asking for one is nearly a download."""

    name: str
    address: str

    def stamp(self) -> tuple[int | None, str]:
        """Return (None, "")."""
        return None, ""

    def read(self) -> Content:
        """Return the bytes. Raises ImageError."""
        from ..download import fetch

        found = fetch(
            self.address,
            max_bytes=MAX_BYTES,
            timeout=TIMEOUT,
            max_redirects=MAX_REDIRECTS,
            allow_private=False,
        )
        return Content(found.name, found.data, found.content_type)


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """A member of a zip. Its stamp is its size and its checksum."""

    name: str
    archive: str
    member: str
    size: int
    crc: int

    def stamp(self) -> tuple[int | None, str]:
        """Return (bytes, checksum)."""
        return self.size, f"crc {self.crc:08x}"

    def read(self) -> Content:
        """Return the bytes. Raises ImageError."""
        shown = f"'{plain(self.member)}' in the zip"
        check_size(self.size, shown, MAX_BYTES)
        try:
            with zipfile.ZipFile(self.archive) as archive, archive.open(self.member) as file:
                data = file.read(MAX_BYTES + 1)  # what the zip says of the size may be untrue
        except (OSError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ImageError(
                f"{shown} cannot be unpacked ({plain(error)}). Unpack the zip with another "
                "program and give the folder."
            ) from error
        check_size(len(data), shown, MAX_BYTES)
        if not data:
            raise ImageError(f"{shown} is empty (0 bytes): put it into the zip again.")
        return Content(shown, data)


Entry = FileEntry | AddressEntry | ZipEntry


def _moment(nanoseconds: int) -> str:
    """To the microsecond, without going through a float."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds} ns"  # a time that no calendar has
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
