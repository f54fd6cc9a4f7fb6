"""Pictures that arrive: chosen, dropped and pasted in JupyterLab, in Voila and on Colab's side.

What a test says to be seconds is reported (`--junitxml`) and asserted nowhere.
"""

import time

import lab_and_voila
import numpy
import pytest
from colab_page import colab_page
from panel_page import FAKE, noise, panel_page, photo, png
from PIL import Image
from playwright.sync_api import expect

from llava_nb import open_image

# What arrives is kept as files beside the notebook.
KEEP = """
from llava_nb.panel.sources import Source
Path("arrived").mkdir()
opened = Source.open

def open_and_keep(source):
    if isinstance(source.given, bytes):
        Path("arrived", source.name).write_bytes(source.given)
    return opened(source)

Source.open = open_and_keep
"""
CELLS = (FAKE[0] + KEEP, FAKE[1])
MOST = 1_000_000  # bytes that a photo may have on its way


@pytest.fixture(scope="module", params=["lab", "voila", "colab"])
def opened(request, browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "colab":
        with colab_page(browser, folder, CELLS) as page:
            yield page
    else:
        with (
            lab_and_voila.serving(request.param, folder) as server,
            panel_page(browser, server, CELLS) as page,
        ):
            yield page


@pytest.fixture
def page(opened):
    yield opened
    opened.is_free()


@pytest.fixture(scope="module")
def big_photo(tmp_path_factory):
    return photo(tmp_path_factory.mktemp("photo") / "photo.jpg")


def arrived(page, path):
    return page.folder / "arrived" / path.name


def seen(path, side):
    """A picture as a model of this side sees it."""
    resized = open_image(path).resize((side, side), Image.Resampling.BICUBIC)
    return numpy.asarray(resized, numpy.float32)


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_photo_of_twelve_megabytes_arrives(page, big_photo, tmp_path, way, record_property):
    assert big_photo.stat().st_size > 11e6
    path = tmp_path / f"{way}.jpg"
    path.symlink_to(big_photo)
    sent_before, began = len(page.sent), time.monotonic()
    getattr(page, way)(path)
    thumbnail = page.part("pictures").get_by_role("img", name=path.name)
    expect(thumbnail).to_be_visible()
    record_property("seconds", round(time.monotonic() - began, 2))
    page.shows("pictures", "shrunk from 4000 x 3000 in the page")
    sent = sum(page.sent[sent_before:])
    record_property("bytes", sent)
    assert 0 < sent < MOST
    assert Image.open(arrived(page, path)).size == (1344, 1008)
    for side in (336, 384):
        difference = numpy.abs(seen(arrived(page, path), side) - seen(path, side)).mean()
        record_property(f"difference_{side}", float(difference))
        assert difference < 2, f"{difference:.2f} of 255 at {side} pixels"


def test_a_turned_photo_arrives_upright(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = photo(tmp_path / "turned.jpg", (2000, 1500), exif=exif)
    page.choose(path)
    page.shows("pictures", "shrunk from 1500 x 2000 in the page")
    assert numpy.abs(seen(arrived(page, path), 336) - seen(path, 336)).mean() < 2


def test_a_transparent_png_of_eight_bits_stays_one(page, tmp_path):
    small = Image.new("P", (40, 30), 1)
    small.putpalette([255, 0, 0, 0, 0, 255])
    small.paste(0, (0, 0, 20, 30))
    path = tmp_path / "clear.png"
    small.resize((2000, 1500)).save(path, transparency=0)
    page.drop(path)
    page.shows("pictures", "shrunk from 2000 x 1500 in the page, laid on white")
    there = Image.open(arrived(page, path))
    assert (there.format, there.size) == ("PNG", (1344, 1008))
    assert numpy.abs(seen(arrived(page, path), 336) - seen(path, 336)).mean() < 2


def test_a_small_file_arrives_as_it_is(page, tmp_path):
    path = photo(tmp_path / "small.jpg", (800, 600))
    page.paste(path)
    page.shows("pictures", "small.jpg 800 x 600 pixels")
    assert arrived(page, path).read_bytes() == path.read_bytes()


def test_three_pictures_arrive_together(page, tmp_path, big_photo):
    third = tmp_path / "third.jpg"
    third.symlink_to(big_photo)
    page.choose(png(tmp_path / "first.png"), noise(tmp_path / "second.png", 6), third)
    for name in ("first.png", "second.png", "third.jpg"):
        expect(page.part("pictures").get_by_role("img", name=name)).to_be_visible()
    expect(page.part("pictures").locator("img")).to_have_count(3)


@pytest.mark.parametrize(("size", "repair"), [(50_000, "HEIC photo"), (12_000_000, "was not sent")])
def test_what_the_browser_cannot_open_is_told(page, tmp_path, size, repair):
    path = tmp_path / f"IMG_{size}.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(size - 24))
    page.drop(path)
    page.shows("notice", path.name)
    page.shows("notice", repair)


def test_a_name_is_shown_as_text(page, tmp_path):
    path = png(tmp_path / "<img src=x onerror=window.ran=1>.png")
    page.drop(path)
    page.shows("pictures", path.name)
    expect(page.part("pictures").locator("img")).to_have_count(1)


def test_enter_asks_and_shift_enter_is_a_new_line(page, tmp_path):
    page.paste(png(tmp_path / "keys.png"))
    page.shows("pictures", "keys.png")
    box = page.part("question").locator("textarea")
    box.fill("One")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    assert box.input_value() == "One\ntwo"
    box.press("Home")  # in the middle Enter asks too
    # An input method ends a syllable with this: it is not a question yet.
    box.evaluate(
        "it => it.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter',"
        "isComposing: true, bubbles: true, composed: true, cancelable: true}))"
    )
    box.press("Enter")
    expect(page.answer).to_have_text("(40, 20) One\ntwo no 0")


def test_nothing_can_be_put_in_while_an_answer_comes(page, tmp_path):
    page.paste(png(tmp_path / "before.png"))
    page.shows("pictures", "before.png")
    with page.held():
        page.ask("Why?")
        expect(page.part("choose")).to_be_disabled()
        page.drop(png(tmp_path / "meanwhile.png"))
    expect(page.part("choose")).to_be_enabled()
    page.drop(png(tmp_path / "after.png"))
    page.shows("pictures", "after.png")
    assert not arrived(page, tmp_path / "meanwhile.png").exists()


def test_where_no_script_answers_there_is_a_plain_button(opened, browser, tmp_path):
    if opened.server.kind == "colab":
        with colab_page(browser, tmp_path, CELLS, script=False) as plain:
            expect(plain.part("upload")).to_be_visible()
        return
    with panel_page(
        browser, opened.server, FAKE, name="plain.ipynb", without="**/*anywidget*/**"
    ) as plain:
        expect(plain.part("upload")).to_be_visible()
        with plain.page.expect_file_chooser() as chooser:
            plain.part("upload").click()
        chooser.value.set_files([png(tmp_path / "plain.png")])
        plain.shows("pictures", "plain.png")


def test_nothing_of_a_picture_stays_in_the_notebook(opened, big_photo, tmp_path):
    if opened.server.kind != "lab":
        pytest.skip("only JupyterLab saves a notebook")
    path = tmp_path / "kept.jpg"
    path.symlink_to(big_photo)
    opened.drop(path)
    opened.shows("pictures", "kept.jpg")
    notebook = opened.folder / "panel.ipynb"
    before = notebook.stat().st_mtime_ns
    opened.command("docmanager:save")
    end = time.monotonic() + 20
    while notebook.stat().st_mtime_ns == before:
        assert time.monotonic() < end, "the notebook was not saved"
        opened.page.wait_for_timeout(100)
    text = notebook.read_text(encoding="utf-8")
    assert "llava-drop" in text, "the state of the widgets was not saved"
    # Thumbnails of 320 pixels stay, and the script; the photo alone would be half a megabyte.
    assert len(text) < 250_000
