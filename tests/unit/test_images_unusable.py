"""open_image(): sources that are no picture, each with its repair."""

from __future__ import annotations

import io
import os

import pytest
from picture_samples import PNG

from llava_nb.errors import ImageError
from llava_nb.images import open_image


def test_missing_file_suggests_near_names(tmp_path):
    for name in ("Cat.JPG", "cat2.jpg", "zebra.png"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match="no file .*Did you mean 'Cat.JPG' or 'cat2.jpg'"):
        open_image(tmp_path / "cat.jpg")


def test_missing_file_without_a_near_name(tmp_path):
    with pytest.raises(ImageError, match="Check the name, or upload"):
        open_image(tmp_path / "cat.jpg")


def test_missing_folder(tmp_path):
    with pytest.raises(ImageError, match="folder does not exist either"):
        open_image(tmp_path / "pictures" / "cat.jpg")


def test_folder_points_to_caption_folder(tmp_path):
    with pytest.raises(ImageError, match=r"is a folder.*caption_folder\(llava, "):
        open_image(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(ImageError, match=r"cat.jpg' is empty \(0 bytes\)"):
        open_image(tmp_path / "cat.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="device or a pipe"):
        open_image(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "empty text"),
        ("nul\0.png", "cannot be read"),
        ("x" * 5000, r"x\.\.\.x.* cannot be read"),
        ("www.example.org/cat.png", "write https:// in front"),
        ("ftp://example.org/cat.png", "ftp: address; only http and https"),
        ("file:///content/cat.png", "without 'file://'"),
        ("javascript:alert(1)", "javascript: address"),
        ("blob:https://example.org/1", "blob: address"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,", "no content after the comma"),
        ("data:image/png;base64,?!*", "not hold valid base64"),
        ("data:text/plain,hello", "The data URI is not a picture.*begins with the text .hello"),
        (None, "cannot use None: give a path, an http.*Choose a picture first"),
        (3, "cannot use a value of type int: give a path"),
        (["a.png", "b.png"], "one picture at a time.*ask_batch"),
        ({"a": 1}, "cannot use a value of type dict"),
        (io.BytesIO(PNG), r"give file\.read\(\)"),
    ],
)
def test_unusable_source(source, message):
    with pytest.raises(ImageError, match=message) as caught:
        open_image(source)
    assert len(str(caught.value)) < 500


def test_address_as_path(tmp_path):
    with pytest.raises(ImageError, match="address as text, not as a Path"):
        open_image(tmp_path.__class__("https://example.org/cat.png"))


def test_foreign_text_in_messages_stays_plain(tmp_path):
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "\x1b[2J\u202egnp.exe<b>\n")
    assert str(caught.value).isprintable() and "<b>" in str(caught.value)


HEIC = b"\0\0\0\x18ftypheic" + bytes(20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf\n<!DOCTYPE html><p>", "is a web page, not a picture: open it in a browser"),
        (b"<?xml version='1.0'?><svg/>", "SVG drawing.*convert it to PNG"),
        (b"%PDF-1.7", "a PDF document.*save the picture in it as PNG"),
        (b"PK\x03\x04", "ZIP archive.*unpack"),
        (b"8BPS", "begins like a picture, but Pillow cannot open it"),
        (b"%!PS-Adobe EPSF", "PostScript.*export it as PNG"),
        (HEIC, "HEIC photo.*as JPEG"),
        (HEIC.replace(b"heic", b"isom"), "video.*one frame"),
        (b"version https://git-lfs.github.com", "Git LFS pointer.*git lfs pull"),
        (b'{"error": 7}', 'begins with the text "{"error": 7}"'),
        (bytes(range(200, 255)), r"not a picture that Pillow can open \(55 bytes\)"),
    ],
)
def test_content_that_is_no_picture(data, message):
    with pytest.raises(ImageError, match=message):
        open_image(data)
