"""The sentences of an ImageError: what came instead of a picture, and what to do about it.

Covered: sources of the wrong kind, missing files, foreign file formats, HTTP answers and network
faults; foreign text made safe to show.
Not covered: raising (images.py, pixels.py, remote.py), and HTML escaping, which is the panel's.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Beginnings of files that people give by mistake: (bytes, what it is, the repair).
_FOREIGN = (
    (b"%PDF", "a PDF document", "save the picture in it as PNG"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it and give one picture from it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and give the picture inside"),
    (b"8BPS", "a Photoshop file", "export it as PNG"),
    (b"%!PS", "a PostScript file", "export it as PNG"),
    (b"\x00\x00\x01\x00", "an icon file", "save it as PNG"),
    (b"\x1aE\xdf\xa3", "a video", "save one frame of it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` and give the file again"),
)
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_WEB_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
SAVE_IT = "Open it in a browser, save the picture, and give the path of the file."
_STATUS_REPAIRS = {
    401: f"The site wants a sign-in. {SAVE_IT}",
    403: f"The site does not give it to programs. {SAVE_IT}",
    404: "Nothing is at that address: open it in a browser and copy it again.",
    410: "The picture was taken down: give another address.",
    429: f"The site gets too many requests: wait some minutes. {SAVE_IT}",
}


TAKEN = (
    "a path, an http(s) address, bytes, a data URI, a PIL image, a numpy array, "
    "or the value of an upload widget"
)


def plain(text: object, limit: int = 120) -> str:
    """Foreign text for a message: one line, nothing that steers a terminal, shortened."""
    line = str(text)
    if len(line) > limit:
        line = line[: limit - 33] + "..." + line[-30:]
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


def shown(url: str) -> str:
    """An address for a message: without its password and query, which may hold a key."""
    address = re.split(r"[?#]", url, maxsplit=1)[0]
    without_password = re.sub(r"^(\w+:/*)[^/\\]*@", r"\1", address)
    return plain(without_password + ("?..." if "?" in url else ""))


def not_taken(value: object) -> str:
    """The message for a source of a kind that open_image does not know."""
    kind = type(value)
    what = "None" if value is None else f"a value of type {kind.__module__}.{kind.__qualname__}"
    what = what.replace("builtins.", "")
    hint = ""
    if value is None:
        hint = " Choose a picture first."
    elif isinstance(value, list | tuple):
        hint = " Give one picture at a time, or the list to Llava.ask_batch."
    elif hasattr(value, "read"):
        hint = " Of an open file give file.read()."
    elif hasattr(value, "value"):
        hint = " Of a widget give widget.value."
    return f"open_image cannot use {what}: give {TAKEN}.{hint}"


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


def what_it_is(data: bytes, name: str, content_type: str) -> str:
    """The message for bytes that no reader took: what they are, and the repair."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(_WEB_PAGE_STARTS) or b"<html" in head or "html" in content_type:
        return (
            f"{name} is a web page, not a picture: open it in a browser, right-click the "
            "picture, copy the image address, and give that."
        )
    if b"<svg" in head or "svg" in content_type:
        return f"{name} is an SVG drawing, which has no pixels: convert it to PNG and give that."
    for start, what, repair in _FOREIGN:
        if data.startswith(start):
            return f"{name} is {what}, not a picture: {repair}."
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return f"{name} is a HEIC photo, which Pillow does not read: save or send it as JPEG."
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        return f"{name} is a video, not a picture: save one frame of it as PNG."
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if webp or data[4:8] == b"ftyp" or data.startswith(_PICTURE_STARTS):
        return (
            f"{name} begins like a picture but is cut off or damaged ({len(data):,} bytes). "
            "Fetch, save or upload it again."
        )
    told = f", sent as {plain(content_type, 60)}" if content_type else ""
    text = data[:60].decode("utf-8", "ignore")
    if text and text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        told += f', which begins with the text "{plain(text)}"'
    return (
        f"{name} is not a picture ({len(data):,} bytes{told}). Give a JPEG, PNG, GIF, WebP, "
        "BMP, TIFF or AVIF file."
    )


def status_repair(code: int, reason: str | None, name: str) -> str:
    """The message for an HTTP status other than 200 OK."""
    repair = "The fault is the site's: try again later." if code >= 500 else SAVE_IT
    return f"{name} answered {code} {plain(reason or '', 40)}. {_STATUS_REPAIRS.get(code, repair)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def network_repair(error: Exception, name: str, timeout: float) -> str:
    """The message for whatever requests, urllib3, ssl or the socket raised."""
    from requests.exceptions import InvalidProxyURL, InvalidSchema, ProxyError

    causes = list(_causes(error))

    def is_a(*kinds: type) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_a(ProxyError, InvalidProxyURL, InvalidSchema):
        return f"{name}: the proxy does not answer. Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY."
    if is_a(TimeoutError):
        return too_slow(name, timeout)
    if is_a(ssl.SSLError):
        return f"{name}: no secure connection ({plain(causes[-1], 80)}). {SAVE_IT}"
    if is_a(ConnectionRefusedError):
        return f"{name}: connection refused. Check the host and port, and that its server runs."
    if isinstance(error, ValueError):  # the only kind raised before anything is sent
        return f"{name} is not a complete http(s) address: copy it again from the browser."
    return f"{name}: the transfer broke off ({plain(causes[-1], 80)}). Try again."


def too_slow(name: str, timeout: float) -> str:
    """The message for a download that took longer than `timeout` seconds."""
    return (
        f"{name} did not arrive within {timeout:g} seconds. Try again, call "
        f"open_image(..., timeout={3 * timeout:g}), or save the picture and give its path."
    )
