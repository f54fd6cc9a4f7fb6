"""Every public call, given anything at all: it does what was meant, or raises an error of ours."""

from __future__ import annotations

import copy
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


def closed_picture():
    file = io.BytesIO()
    SMALL.save(file, "PNG")
    with Image.open(file) as picture:
        return picture


def closed_file():
    file = io.BytesIO(b"")
    file.close()
    return file


MAKERS = {  # made anew for each example: a generator is used up, a file is read to its end
    "an object": object,
    "a picture": SMALL.copy,
    "a closed picture": closed_picture,
    "a generator": lambda: (each for each in ["a.png"]),
    "a file of bytes": lambda: io.BytesIO(b"nothing"),
    "a file of text": lambda: io.StringIO("nothing"),
    "a closed file": closed_file,
}
VALUES = [None, True, Path, print, [SMALL, SMALL], {"a.png"}, {"name": "a.png", "content": b""}, []]
VALUES += [numpy.zeros((8, 8, 3), numpy.uint8), numpy.zeros((0, 3)), numpy.array(["a.png", "b"])]
VALUES += [numpy.float32(2), decimal.Decimal("0.5"), pandas.Series(["a.png", None])]
VALUES += [pandas.DataFrame({"file": ["a.png"]}), b"\x89PNG\r\n\x1a\n", bytearray(b"GIF89a")]
VALUES += [Path("no such place"), "a\0b", "What \ud83d?", "/", "http://[::1", "x" * 5000]
VALUES += ["data:image/png;base64,AAAA", "~nobody-of-this-name/a.png"]
MAKERS |= {repr(each)[:40]: lambda each=each: copy.copy(each) for each in VALUES}
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
def test_open_image_and_example_picture(source):
    result = only_ours(llava_nb.open_image, source)
    assert isinstance(result, llava_nb.ImageError) or result.mode == "RGB"
    only_ours(llava_nb.example_picture, source)


@often
@given(image=anything, prompt=anything)
@pytest.mark.parametrize("name", ["ask", "caption_image", "stream"])
def test_ask(tiny, name, image, prompt):
    def call(*arguments, **options):
        return list(getattr(tiny, name)(*arguments, **options))  # a stream begins when it is read

    asks = call if name == "stream" else getattr(tiny, name)
    only_ours(asks, image, prompt, max_new_tokens=exactly(1))


@often
@given(value=anything)
@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_p", "stop"])
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


@often
@given(value=anything)
@pytest.mark.parametrize("name", ["images", "prompt_tokens", "max_new_tokens", "batch_size"])
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
def test_save_4bit(tiny, value):
    if isinstance(value[1](), (str, Path)):
        return  # it would be written to: test_save has these
    only_ours(tiny.save_4bit, value)


@often
@given(value=anything)
@pytest.mark.parametrize("name", ["llava", "folder", "output", "prompt", "batch_size", "engine"])
def test_caption_folder(tiny, tmp_path, name, value):
    SMALL.save(tmp_path / "a.png")
    options = {"llava": tiny, "folder": tmp_path, "output": tmp_path / "captions.csv"}
    options |= {"max_new_tokens": 1, "progress": False}
    options = {key: exactly(each) for key, each in options.items()} | {name: value}
    if name == "folder" and value[0] == repr("/"):
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
