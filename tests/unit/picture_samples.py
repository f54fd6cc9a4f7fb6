"""Small pictures in every wrapping, for the tests of open_image() and of a folder of files."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(size=(64, 48)) -> Image.Image:
    """Four colours that tell every turn and mirroring apart."""
    picture = Image.new("RGB", (2, 2))
    picture.putdata([RED, GREEN, BLUE, YELLOW])
    return picture.resize(size, Image.Resampling.NEAREST)


def corner_colours(picture: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = picture.width - 1, picture.height - 1
    return [picture.getpixel(at) for at in [(0, 0), (right, 0), (0, bottom), (right, bottom)]]


def png_chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_of(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these rows, each with its filter byte, as the standard has depth and colour type."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def huge_png(width: int, height: int) -> bytes:
    """A true black 1-bit PNG, made without holding its pixels."""
    return png_of(width, height, bytes((1 + (width + 7) // 8) * height), 1, 0)


PNG = encoded(corners())
JPEG = encoded(corners(), "JPEG", quality=95)
BASE64 = base64.b64encode(PNG).decode()


def entry_7(name: str, content: bytes) -> dict:
    return {name: {"metadata": {"name": name, "size": len(content)}, "content": content}}


def entry_8(name: str, content: bytes) -> dict:
    return {"name": name, "size": len(content), "content": memoryview(content)}
