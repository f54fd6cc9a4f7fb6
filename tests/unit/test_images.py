"""open_image(): every kind of source that it takes."""

from __future__ import annotations

import pytest
from picture_samples import (
    BASE64,
    BLUE,
    GREEN,
    PNG,
    RED,
    YELLOW,
    corner_colours,
    encoded,
    entry_7,
    entry_8,
)
from PIL import Image

from llava_nb.errors import ImageError
from llava_nb.images import open_image


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes(wrap):
    assert corner_colours(open_image(wrap(PNG))) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("wrap", [str, lambda path: path])
def test_path(tmp_path, wrap):
    (tmp_path / "a b:é.png").write_bytes(PNG)
    assert open_image(wrap(tmp_path / "a b:é.png")).size == (64, 48)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "cat.png").write_bytes(PNG)
    assert open_image("~/cat.png").size == (64, 48)


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{BASE64}",
        f" DATA:image/png;charset=utf-8;BASE64,{BASE64[:40]}\n{BASE64[40:].rstrip('=')} ",
        "data:," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
    ids=["base64", "loosely written", "percent"],
)
def test_data_uri(uri):
    assert corner_colours(open_image(uri)) == [RED, GREEN, BLUE, YELLOW]


OTHER = encoded(Image.new("RGB", (5, 5)))


@pytest.mark.parametrize(
    "value",
    [
        entry_7("cat.png", PNG),
        entry_7("cat.png", PNG)["cat.png"],
        entry_7("other.png", OTHER) | entry_7("cat.png", PNG),
        entry_7("content", PNG),
        (entry_8("cat.png", PNG),),
        entry_8("cat.png", PNG),
        (entry_8("other.png", OTHER), entry_8("cat.png", PNG)),
        [entry_8("cat.png", PNG)],
    ],
)
def test_upload_value_gives_its_last_file(value):
    assert open_image(value).size == (64, 48)


def test_upload_widget_of_the_installed_ipywidgets():
    widgets = pytest.importorskip("ipywidgets")
    upload = widgets.FileUpload()
    with pytest.raises(ImageError, match="nothing arrived"):
        open_image(upload.value)
    with pytest.raises(ImageError, match=r"give widget\.value"):
        open_image(upload)


@pytest.mark.parametrize("empty", [(), {}, [], b"", memoryview(b""), entry_8("cat.png", b"")])
def test_empty_upload_names_the_limit_and_another_way(empty):
    with pytest.raises(ImageError, match="nothing arrived.*over the upload limit.*path or an http"):
        open_image(empty)
