"""Keys and values in buffers, and steps that a compiler has changed.

On a CPU there are no CUDA graphs; what is tested is that the buffers give the same answers
and that whatever fails is left aside. `tests/gpu/test_fast_cuda.py` has the real compiler.
"""

from random import Random

import pytest

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import fast, load
from llava_nb.fast import BUCKET, FastDecoder, speed_up

DESCRIBE, COUNT = "Describe this picture.", "How many things are there?"
PICTURES = [draw(sample_scene(Random(f"fast {at}"), count=1 + at)) for at in range(3)]


def as_it_is(step):
    return lambda *arguments, **named: step(*arguments, **named)


@pytest.fixture
def exact():
    llava = load("tiny", quantization=None)
    llava.prefixes.clear()
    yield llava
    llava.decoder = llava.fast = None


def conversation(llava, picture):
    chat = llava.chat(picture)
    return [chat.ask(question).ids for question in (DESCRIBE, COUNT, "What colour is it?")]


def test_answers_from_buffers_are_the_same(exact):
    stock = [conversation(exact, picture) for picture in PICTURES]
    exact.prefixes.clear()
    exact.decoder = FastDecoder(as_it_is)
    assert [conversation(exact, picture) for picture in PICTURES] == stock


def test_the_step_is_what_the_compiler_returned(exact):
    lengths = []

    def noting(step):
        def noted(*arguments, **named):
            lengths.append(named["inputs_embeds"].shape[1])
            return step(*arguments, **named)

        return noted

    exact.decoder = FastDecoder(noting)
    answer = exact.ask(PICTURES[0], DESCRIBE)
    assert lengths == [1] * answer.tokens, lengths


def test_a_follow_up_reads_no_picture_again(exact):
    exact.decoder = FastDecoder(as_it_is)
    chat = exact.chat(PICTURES[1])
    first, second = chat.ask(DESCRIBE), chat.ask(COUNT)
    assert second.reused_tokens == first.prompt_tokens + first.tokens - 1


def test_what_is_remembered_outlives_the_buffers(exact):
    exact.decoder = FastDecoder(as_it_is)
    chat = exact.chat(PICTURES[1])
    first = chat.ask(DESCRIBE).ids
    exact.ask(PICTURES[2], DESCRIBE)  # writes into the same buffers
    chat.ask(COUNT)
    assert chat.regenerate().text == "Two." and chat.turns[0].answer.ids == first


def test_the_same_buffers_serve_until_they_are_too_short(exact):
    exact.decoder = FastDecoder(as_it_is)
    exact.ask(PICTURES[0], DESCRIBE)
    before = exact.decoder._buffers
    exact.ask(PICTURES[1], DESCRIBE)
    assert exact.decoder._buffers is before and exact.decoder._length == BUCKET


def test_without_a_gpu_nothing_is_tried_and_it_says_so(exact):
    report = speed_up(exact)
    assert not report.on and exact.decoder is None
    assert "off: it needs a CUDA GPU, and this model is on the CPU." in str(report)


def test_load_says_what_came_of_it():
    assert "needs a CUDA GPU" in str(load("tiny", fast=True).fast)
    assert load("tiny").fast is None


@pytest.fixture
def measured(monkeypatch):
    """Set the speeds that will be measured, in their order."""

    def measure(*speeds):
        left = iter(speeds)
        monkeypatch.setattr(fast, "_tokens_per_second", lambda llava, runs: next(left))

    return measure


def test_faster_is_kept_and_reported(exact, measured):
    measured(20.0, 1.0, 50.0)
    report = speed_up(exact, as_it_is)
    assert report.on and exact.decoder is not None
    assert "on: 50.0 tokens/s instead of 20.0. The warm-up took" in str(report)


def test_no_faster_is_left_aside(exact, measured):
    measured(20.0, 1.0, 20.5)
    report = speed_up(exact, as_it_is)
    assert not report.on and exact.decoder is None
    assert "off: it is no faster here, 20.5 tokens/s against 20.0" in str(report)


def test_real_speeds_are_measured(exact):
    report = speed_up(exact, as_it_is)
    assert report.stock_tokens_per_second > 0 and report.fast_tokens_per_second > 0


def broken(step):
    def fail(*arguments, **named):
        raise RuntimeError("no kernel image\nand more")

    return fail


def test_a_compiler_that_fails_is_left_aside(exact):
    report = speed_up(exact, broken)
    assert not report.on and exact.decoder is None
    assert "compiling failed (RuntimeError: no kernel image)" in str(report)


def test_a_step_that_fails_later_costs_no_answer(exact):
    expected = exact.ask(PICTURES[0], DESCRIBE).ids
    exact.decoder = FastDecoder(broken)
    with pytest.warns(UserWarning, match="Fast decoding is off: compiling failed"):
        answer = exact.ask(PICTURES[0], DESCRIBE)
    assert answer.ids == expected and exact.decoder is None
