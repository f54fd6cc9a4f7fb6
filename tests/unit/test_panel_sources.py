"""Pictures of the panel: named and noted; uploads of ipywidgets 7 and 8 read and emptied."""

import io

import ipywidgets
import numpy
import pytest
from PIL import Image

from llava_nb import ImageError, open_image
from llava_nb.panel.sources import Source, UploadButton, paths_in, pressed_enter, sources_of

SEVEN = ipywidgets.__version__.startswith("7")


def in_bytes(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


PNG = in_bytes(Image.new("RGB", (40, 20), "red"))


def notes(picture):
    return picture.notes("padded")


def opened(data, name="cat.png"):
    return Source(data, name).open()


def test_a_thumbnail_is_a_small_jpeg():
    uri = opened(in_bytes(Image.new("RGB", (2000, 1000), "red"))).thumbnail
    small = open_image(uri)
    assert uri.startswith("data:image/jpeg;base64,") and small.size == (480, 240)


def test_the_notes_say_size_and_file(tmp_path):
    path = tmp_path / "red.bmp"
    path.write_bytes(in_bytes(Image.new("RGB", (32, 32), "red"), "BMP"))
    assert notes(Source(path, "red").open()) == "32 x 32 pixels, BMP 3.1 KiB"


def test_a_turned_picture_is_noted():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = opened(in_bytes(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert picture.image.size == (20, 40) and "turned upright, padded" in notes(picture)


@pytest.mark.parametrize(
    ("picture", "form", "options", "note"),
    [
        (Image.new("RGBA", (4, 4)), "PNG", {}, "laid on white"),
        (Image.new("L", (4, 4)), "PNG", {}, "made RGB (was L)"),
        (
            Image.new("RGB", (4, 4), "red"),
            "GIF",
            {"save_all": True, "append_images": [Image.new("RGB", (4, 4), "blue")]},
            "its first frame",
        ),
    ],
)
def test_what_opening_did_is_noted(picture, form, options, note):
    assert note in notes(opened(in_bytes(picture, form, **options)))


def test_a_picture_in_memory_is_noted_too():
    assert notes(opened(Image.new("L", (4, 4)))) == "4 x 4 pixels; made RGB (was L)"
    assert notes(opened(numpy.zeros((4, 8, 3), "uint8"))) == "8 x 4 pixels; padded"


def test_an_empty_upload_says_what_to_do():
    with pytest.raises(ImageError, match=r"nothing arrived \(0 bytes\).*give its path"):
        opened(b"")


def test_a_cut_upload_says_how_much_arrived():
    with pytest.raises(ImageError, match=r"only 10 of 5,000,000 bytes.*give its path"):
        Source(b"x" * 10, "cat.png", 5_000_000).open()


def test_a_foreign_name_is_kept_on_one_line():
    assert "\n" not in opened(PNG, "a\nb\u202e.png").name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("/some/where/cat.png", "cat.png"),
        ("https://example.org/a%20cat.png?size=2", "a cat.png"),
        ("https://example.org/", "example.org"),
        ("https://[bad", "[bad"),
        ("data:image/png;base64,AAAA", "data URI"),
        (b"bytes", "picture"),
    ],
)
def test_whatever_is_given_has_a_name(given, name):
    assert sources_of((given,))[0].name == name


def test_what_colab_uploads_is_one_source_a_file():
    sources = sources_of(({"a.png": PNG, "b.png": b""},))
    assert [(each.name, len(each.given)) for each in sources] == [("a.png", len(PNG)), ("b.png", 0)]


def test_paths_are_one_a_line_without_quotes():
    assert paths_in(' "a b.png" \n\n\'c.png\'\nd.png\n"') == ["a b.png", "c.png", "d.png", '"']


@pytest.mark.parametrize(
    ("before", "now", "enter"),
    [("Why?", "Why?\n", True), ("", "Why?\n", True), ("a", "a\nb\n", False), ("a\nb", "ab", False)],
)
def test_enter_is_one_new_line_at_the_end(before, now, enter):
    assert pressed_enter(before, now) is enter


def receive(widget, *files):
    """What a page sends for an upload: (name, bytes, size told)."""
    about = [{"name": name, "type": "image/png", "size": size} for name, _, size in files]
    data = [memoryview(content) for _, content, _ in files]
    if SEVEN:
        metadata = [each | {"lastModified": 1} for each in about]
        count = widget._counter + max(len(files), 1)
        widget.set_state({"_counter": count, "metadata": metadata, "data": data})
    else:
        both = zip(about, data, strict=True)
        value = [each | {"content": content, "last_modified": 1} for each, content in both]
        widget.set_state({"value": value})


@pytest.fixture
def upload():
    taken = []
    button = UploadButton(taken.append)
    button.taken = taken
    return button


def test_uploads_arrive_with_name_size_and_bytes(upload):
    receive(upload, ("a.png", PNG, len(PNG)), ("b.png", b"", 7))
    assert upload.taken == [(Source(PNG, "a.png", len(PNG)), Source(b"", "b.png", 7))]
    assert type(upload.taken[0][0].given) is bytes


def test_two_uploads_of_one_name_both_arrive(upload):
    receive(upload, ("a.png", b"1", 1), ("a.png", b"2", 1))
    assert [each.given for each in upload.taken[0]] == [b"1", b"2"]


@pytest.mark.skipif(not SEVEN, reason="only ipywidgets 7 counts uploads")
def test_a_counter_without_data_is_an_empty_upload(upload):
    receive(upload)
    assert upload.taken == [(Source(b"", ""),)]
