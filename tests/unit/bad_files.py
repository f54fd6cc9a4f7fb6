"""A folder of files that go wrong, or might: each by name, with whether it has a caption."""

from __future__ import annotations

import os
import socket

from picture_samples import JPEG, PNG, corners, encoded, huge_png
from PIL import Image

HEIC = b"\0\0\0\x18ftypheic" + bytes(20)
CAPTION, ERROR = True, False


def contents():
    """Name: (bytes, whether there is a picture in them)."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    grey_16 = Image.new("I;16", (16, 16), 40_000)
    palette = corners().convert("P")
    palette.info["transparency"] = 0
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "good.png": (PNG, CAPTION),
        "good.JPG": (JPEG, CAPTION),
        "truncated.png": (PNG[:-40], ERROR),
        "truncated.jpg": (JPEG[: len(JPEG) // 2], ERROR),
        "only a header.png": (PNG[:20], ERROR),
        "bomb.png": (huge_png(20_000, 10_000), ERROR),
        "no pixels.png": (huge_png(0, 0), ERROR),
        "text.jpg": (b"Dear all,\nthe picture is attached.\n", ERROR),
        "json.png": (b'{"error": "not found"}', ERROR),
        "web page.jpg": (b"<!DOCTYPE html><html><p>404</p></html>", ERROR),
        "zero bytes.png": (b"", ERROR),
        "only zeros.png": (bytes(1000), ERROR),
        "pdf.png": (b"%PDF-1.7", ERROR),
        "zip.png": (b"PK\x03\x04", ERROR),
        "gzip.png": (b"\x1f\x8b\x08", ERROR),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ERROR),
        "video.gif": (b"\x1aE\xdf\xa3", ERROR),
        "phone.heic": (HEIC, ERROR),
        "photoshop.tif": (b"8BPS", ERROR),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\n", ERROR),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames), CAPTION),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames), CAPTION),
        "animated.png": (encoded(frames[0], "PNG", save_all=True, append_images=frames), CAPTION),
        "pages.tif": (encoded(frames[0], "TIFF", save_all=True, append_images=frames), CAPTION),
        "cmyk.jpg": (encoded(corners().convert("CMYK"), "JPEG"), CAPTION),
        "16 bit.png": (encoded(grey_16), CAPTION),
        "float.tif": (encoded(corners().convert("F"), "TIFF"), CAPTION),
        "black and white.png": (encoded(corners().convert("1")), CAPTION),
        "palette.png": (encoded(palette), CAPTION),
        "transparent.png": (encoded(corners().convert("RGBA")), CAPTION),
        "turned.jpg": (encoded(corners(), "JPEG", exif=turned), CAPTION),
        "one pixel.png": (encoded(corners((1, 1))), CAPTION),
        "three pixels high.png": (encoded(corners((40, 3))), CAPTION),
        "very wide.png": (encoded(corners((4000, 1))), CAPTION),
        "very high.png": (encoded(corners((2, 4000))), CAPTION),
        "a jpeg named.png": (JPEG, CAPTION),
        "new\nline.png": (PNG, CAPTION),
        "carriage\rreturn.png": (PNG, CAPTION),
        "comma, and more.png": (PNG, CAPTION),
        'a "quote".png': (PNG, CAPTION),
        "it's.png": (PNG, CAPTION),
        "한글.png": (PNG, CAPTION),
        "😀.png": (PNG, CAPTION),
        "=cmd|' C calc'!A0.png": (PNG, CAPTION),
        "@SUM(1+1).png": (PNG, CAPTION),
        "+1.png": (PNG, CAPTION),
        "-1.png": (PNG, CAPTION),
        "'=1.png": (PNG, CAPTION),
        "\tab.png": (PNG, CAPTION),
        "<b>bold<script>.png": (PNG, CAPTION),
        "%s {} %(x)s.png": (PNG, CAPTION),
        " leading space.png": (PNG, CAPTION),
        "n" * 240 + ".png": (PNG, CAPTION),
        "\udcff\udcfe.png": (PNG, CAPTION),  # a name that is no UTF-8
    }


def write(folder):
    """Write all; return by name whether there is to be a caption."""
    folder.mkdir()
    wanted = {}
    for name, (data, readable) in contents().items():
        (folder / name).write_bytes(data)
        wanted[name] = readable
    (folder / "loop a.png").symlink_to("loop b.png")
    (folder / "loop b.png").symlink_to("loop a.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "good link.png").symlink_to("good.png")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # an address of this kind has 100 letters at the most
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(here)
    (folder / "unreadable.png").write_bytes(PNG)
    (folder / "unreadable.png").chmod(0)
    unreadable = os.access(folder / "unreadable.png", os.R_OK)  # root may
    others = ("loop a.png", "loop b.png", "dangling.png", "pipe.png", "socket.png")
    return (
        wanted
        | dict.fromkeys(others, ERROR)
        | {
            "good link.png": CAPTION,
            "unreadable.png": unreadable,
        }
    )
