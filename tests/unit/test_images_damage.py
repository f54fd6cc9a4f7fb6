"""open_image(): damaged pictures and the limits in bytes and pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from picture_samples import BASE64, PNG, corners, encoded, entry_8, huge_png
from PIL import Image, ImageFile

from llava_nb.errors import ImageError
from llava_nb.images import open_image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_cut_picture_raises(kind, share, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as many notebooks do
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype("uint8")
    whole = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match="cut off or damaged.*again"):
        open_image(whole[: max(16, int(share * len(whole)))])
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "the notebook's own setting was not put back"


@pytest.mark.parametrize("error", [OSError, SyntaxError, struct.error, EOFError, MemoryError])
def test_every_decoder_error_is_an_image_error(monkeypatch, error):
    def fail(self):
        raise error("broken inside")

    picture = Image.open(io.BytesIO(PNG))
    monkeypatch.setattr(type(picture), "load", fail)
    with pytest.raises(ImageError, match=r"The PIL image .*\(broken inside\).*again"):
        open_image(picture)


@pytest.mark.parametrize("seed", range(20))
def test_scrambled_bytes_give_a_picture_or_an_image_error(seed):
    random = np.random.default_rng(seed)
    data = bytearray(encoded(corners(), ["PNG", "JPEG", "GIF", "TIFF", "WEBP"][seed % 5]))
    for place in random.integers(0, len(data), 12):
        data[place] = random.integers(0, 256)
    try:
        assert open_image(data).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("The bytes given")


@pytest.mark.parametrize("how", ["bytes", "path", "upload", "PIL"])
def test_200_megapixels_are_refused_before_decoding(how, tmp_path, monkeypatch):
    data = huge_png(20_000, 10_000)
    (tmp_path / "huge.png").write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # or Pillow would refuse it first
    with Image.open(io.BytesIO(data)) as picture:
        upload = (entry_8("huge.png", data),)
        ways = {"bytes": data, "path": tmp_path / "huge.png", "upload": upload, "PIL": picture}
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
        with pytest.raises(ImageError, match=r"200\.0 megapixels; the limit is 100.*max_pixels=2"):
            open_image(ways[how])


def test_max_pixels_may_be_raised_above_pillows_own_limit(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert open_image(PNG).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 10 and not recwarn.list


def test_max_pixels_is_exact():
    assert open_image(PNG, max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(ImageError, match="megapixels"):
        open_image(PNG, max_pixels=64 * 48 - 1)


def test_max_bytes_holds_for_every_source(tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)
    uri = f"data:image/png;base64,{BASE64}"
    for source in (PNG, tmp_path / "cat.png", entry_8("cat.png", PNG), uri):
        assert open_image(source, max_bytes=len(PNG)).size == (64, 48)
        with pytest.raises(ImageError, match=f"the limit is 0.0 MiB.*max_bytes={len(PNG)}"):
            open_image(source, max_bytes=len(PNG) - 1)
