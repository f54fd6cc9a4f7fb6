"""Every public call, given anything at all: it does what was meant, or raises an error of ours."""

from __future__ import annotations

import decimal
import io
import warnings
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import llava_nb
from llava_nb import LlavaNbError

SMALL = Image.new("RGB", (40, 24), "red")
# Made anew for each example: a generator is used up, a file is read to its end.
MAKERS = {
    "None": lambda: None,
    "True": lambda: True,
    "an object": object,
    "a class": lambda: Path,
    "a function": lambda: print,
    "a picture": SMALL.copy,
    "a closed picture": lambda: closed_picture(),
    "an array": lambda: numpy.zeros((8, 8, 3), numpy.uint8),
    "an array of no size": lambda: numpy.zeros((0, 3)),
    "an array of texts": lambda: numpy.array(["a.png", "b.png"]),
    "a numpy number": lambda: numpy.float32(2),
    "a decimal": lambda: decimal.Decimal("0.5"),
    "a series": lambda: pandas.Series(["a.png", None]),
    "a table": lambda: pandas.DataFrame({"file": ["a.png"]}),
    "a generator": lambda: (each for each in ["a.png"]),
    "a list of pictures": lambda: [SMALL, SMALL],
    "a set": lambda: {"a.png"},
    "a dict": lambda: {"name": "a.png", "content": b""},
    "an empty list": list,
    "bytes": lambda: b"\x89PNG\r\n\x1a\n",
    "a bytearray": lambda: bytearray(b"GIF89a"),
    "a file of bytes": lambda: io.BytesIO(b"nothing"),
    "a file of text": lambda: io.StringIO("nothing"),
    "a closed file": lambda: closed_file(),
    "a path": lambda: Path("no such place"),
    "a path with NUL": lambda: "a\0b",
    "half a character": lambda: "What \ud83d?",
    "a folder": lambda: "/",
    "an address of nobody": lambda: "http://[::1",
    "a data address": lambda: "data:image/png;base64,AAAA",
    "a home of nobody": lambda: "~nobody-of-this-name/a.png",
    "a long name": lambda: "x" * 5000,
}
anything = st.one_of(
    st.sampled_from(sorted(MAKERS)).map(lambda name: (name, MAKERS[name])),
    st.one_of(
        st.integers(),
        st.floats(),
        st.text(alphabet=st.characters(), max_size=8),
        st.binary(max_size=8),
        st.complex_numbers(),
    ).map(lambda value: (repr(value), lambda: value)),
)
often = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def closed_picture():
    file = io.BytesIO()
    SMALL.save(file, "PNG")
    with Image.open(file) as picture:
        return picture


def closed_file():
    file = io.BytesIO(b"")
    file.close()
    return file


def only_ours(call, *names_and_makers, **options):
    """Make the call; return what it gave, or the error of ours. Anything else is a failure."""
    arguments = [make() for _, make in names_and_makers]
    options = {name: make() for name, (_, make) in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*arguments, **options)
        except LlavaNbError as error:
            text = str(error)
            assert text and "Traceback" not in text
            text.encode()  # can be printed
            return error


def exactly(value):
    return "a fixed value", lambda: value


@often
@given(source=anything)
def test_open_image(source):
    result = only_ours(llava_nb.open_image, source)
    assert isinstance(result, llava_nb.ImageError) or result.mode == "RGB"


@often
@given(image=anything, prompt=anything)
@pytest.mark.parametrize("name", ["ask", "caption_image"])
def test_ask(tiny, name, image, prompt):
    only_ours(getattr(tiny, name), image, prompt, max_new_tokens=exactly(1))


@often
@given(image=anything, prompt=anything)
def test_stream(tiny, image, prompt):
    def stream(*arguments, **options):
        return list(tiny.stream(*arguments, **options))

    only_ours(stream, image, prompt, max_new_tokens=exactly(1))


SETTINGS = ("max_new_tokens", "temperature", "top_p", "stop")


@often
@given(value=anything)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tiny, name, value):
    options = {"max_new_tokens": exactly(1), name: value}
    if name == "max_new_tokens" and isinstance(value[1](), int) and value[1]() > 10:
        return  # an answer that long is what was asked for
    only_ours(tiny.ask, exactly(SMALL), exactly("What?"), **options)


@often
@given(images=anything, prompts=anything, size=anything)
def test_ask_batch(tiny, images, prompts, size):
    options = {"max_new_tokens": exactly(1)}
    only_ours(tiny.ask_batch, images, exactly("What?"), **options)
    only_ours(tiny.ask_batch, exactly([SMALL]), prompts, **options)
    only_ours(tiny.ask_batch, exactly([SMALL]), exactly("What?"), batch_size=size, **options)


@often
@given(image=anything, question=anything)
def test_chat(tiny, image, question):
    only_ours(tiny.chat, image)
    chat = tiny.chat(SMALL)
    only_ours(chat.ask, question, max_new_tokens=exactly(1))
    for call in (chat.go_on, chat.regenerate, chat.undo):
        only_ours(call)


@often
@given(model=anything, quantization=anything)
def test_load_and_estimate(model, quantization):
    only_ours(llava_nb.load, model)
    only_ours(llava_nb.load, exactly("tiny"), quantization=quantization)
    only_ours(llava_nb.estimate_vram, model)
    only_ours(llava_nb.estimate_vram, exactly("tiny"), quantization=quantization)


NUMBERS = ("images", "prompt_tokens", "max_new_tokens", "batch_size")


@often
@given(value=anything)
@pytest.mark.parametrize("name", NUMBERS)
def test_estimate_of_any_numbers(name, value):
    only_ours(llava_nb.estimate_vram, exactly("llava-1.5-7b"), **{name: value})


@often
@given(value=anything)
@pytest.mark.parametrize("name", ["token", "cache_dir", "check"])
def test_load_with_any_option(name, value):
    only_ours(llava_nb.load, exactly("owner/no-such-model"), **{name: value})


@often
@given(value=anything)
def test_memory(value):
    def track(label):
        with llava_nb.track_vram(label) as track:
            pass
        return str(track)

    only_ours(track, value)
    only_ours(llava_nb.vram_report, value)


@often
@given(value=anything)
def test_example_picture(value):
    only_ours(llava_nb.example_picture, value)


@often
@given(value=anything)
def test_save_4bit(tiny, value):
    if isinstance(value[1](), (str, Path)):
        return  # it would be written to: test_save has these
    only_ours(tiny.save_4bit, value)


@often
@given(value=anything)
@pytest.mark.parametrize("name", ["llava", "folder", "output", "prompt", "batch_size", "engine"])
def test_caption_folder(tiny, tmp_path, name, value):
    SMALL.save(tmp_path / "a.png")
    options = {
        "llava": exactly(tiny),
        "folder": exactly(tmp_path),
        "output": exactly(tmp_path / "captions.csv"),
        "max_new_tokens": exactly(1),
        "progress": exactly(False),
        name: value,
    }
    if name == "folder" and value[0] == "a folder":
        return  # all of the machine's pictures
    if name == "output" and isinstance(value[1](), (str, Path)) and Path(str(value[1]())).suffix:
        return  # it would be written to
    only_ours(llava_nb.caption_folder, **options)


@often
@given(value=anything)
def test_panel(tiny, value):
    only_ours(llava_nb.caption_panel, value)
    panel = llava_nb.caption_panel(tiny)
    only_ours(panel.choose, value)
    only_ours(panel.ask, value)
    if not isinstance(value[1](), (str, Path)):  # it would be written to
        only_ours(panel.save, value)
