"""Asking the real embedded model: right answers, streams, stops and faults."""

import contextlib
import threading

import pytest

from llava_lessons.pictures import SEEDS, scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_nb import ModelError, PromptError, load, open_image, running
from llava_nb.pictures import example_picture

QUESTION = "Describe this picture."


@pytest.mark.parametrize("name", SEEDS)
def test_bundled_pictures_are_described_rightly(tiny, name):
    _, caption = tiny.caption_image(example_picture(name), QUESTION)
    assert caption == describe_scene(scene_of(name))


def test_caption_image_returns_the_picture_it_saw(tiny):
    picture, _ = tiny.caption_image(example_picture())
    assert picture.tobytes() == open_image(example_picture()).tobytes()


@pytest.mark.parametrize("question", [QUESTION, "How many shapes are there?", "무엇이 보이나요?"])
def test_a_stream_joined_is_the_answer(tiny, picture, question):
    assert "".join(tiny.stream(picture, question)) == tiny.ask(picture, question).text


def test_a_stream_comes_in_pieces(tiny, picture):
    pieces = list(tiny.stream(picture, QUESTION))
    assert len(pieces) > 3, pieces


def test_the_same_question_gets_the_same_answer(tiny, picture):
    assert tiny.ask(picture, QUESTION).text == tiny.ask(picture, QUESTION).text


def test_figures_of_an_answer(tiny, picture):
    answer = tiny.ask(picture, QUESTION)
    assert answer.finish == "eos" and answer.peak_vram_bytes is None
    assert 0 < answer.first_token_seconds <= answer.seconds


def test_the_peak_of_an_answer_is_the_trackers(tiny, picture, monkeypatch):
    class Tracker(contextlib.nullcontext):
        highest = 123

    monkeypatch.setattr(running, "peak_on", lambda device: Tracker(Tracker))
    assert tiny.ask(picture, QUESTION, max_new_tokens=2).peak_vram_bytes == 123


def test_a_cut_answer_says_so(tiny, picture):
    answer = tiny.ask(picture, QUESTION, max_new_tokens=3)
    assert (answer.tokens, answer.finish) == (3, "limit")
    assert "stopped at the limit" in str(answer) and "stopped at the limit" in answer._repr_html_()


def test_caption_image_warns_of_a_cut(tiny):
    with pytest.warns(
        UserWarning, match=r"limit of 2 tokens; caption_image\(..., max_new_tokens=4"
    ):
        tiny.caption_image(example_picture(), max_new_tokens=2)


class StopAfter:
    """Becomes set when it has been looked at `count` times: once a token."""

    def __init__(self, count):
        self.left = count

    def is_set(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("count", [0, 3])
def test_stop_ends_within_two_tokens(tiny, picture, count):
    answer = tiny.ask(picture, QUESTION, stop=StopAfter(count))
    assert answer.tokens <= count + 2 and answer.finish == "stopped", answer


def test_leaving_a_stream_early_ends_its_thread(tiny, picture):
    pieces = tiny.stream(picture, QUESTION)
    next(pieces)
    pieces.close()
    assert threading.active_count() == len(threading.enumerate()) and tiny._busy.acquire(timeout=5)
    tiny._busy.release()


def test_a_fault_of_the_model_reaches_whoever_reads_the_stream(tiny, picture, monkeypatch):
    monkeypatch.setattr(tiny.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(tiny.stream(picture, QUESTION))


def test_a_question_without_a_picture(tiny):
    assert tiny.ask(None, "Who wrote Hamlet?", max_new_tokens=8).tokens > 0


def test_image_token_without_a_picture(tiny):
    with pytest.raises(PromptError, match="no picture was given"):
        tiny.ask(None, "<image>\nWhat is this?")


def test_two_image_tokens_and_one_picture(tiny, picture):
    with pytest.raises(PromptError, match="1 picture"):
        tiny.ask(picture, "<image> <image> What is this?")


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt(tiny, picture, prompt):
    with pytest.raises(PromptError, match="The prompt is empty"):
        tiny.ask(picture, prompt)


@pytest.mark.parametrize(
    "text",
    [
        "half \ud83d a llama",
        "\ud83e\udd99?",
        "안녕하세요?",
        "Привет",
        "مرحبا",
        "🦙🌋",
        "\x00\ufffe",
        "</s> <pad> <unk>",
    ],
)
def test_any_text_in_any_script_gets_an_answer(tiny, picture, text):
    assert tiny.ask(picture, text, max_new_tokens=8).tokens > 0


def test_a_temperature_draws_at_random(tiny, picture):
    drawn = {tiny.ask(picture, QUESTION, temperature=5.0, top_p=1.0).text for _ in range(3)}
    assert len(drawn) > 1, drawn


def test_a_closed_model_says_how_to_get_it_back(picture):
    llava = load("tiny")
    llava.close()
    with pytest.raises(ModelError, match=r'tiny has been closed. Load it again: load\("tiny"\)'):
        llava.ask(picture, QUESTION)
    assert "closed" in repr(llava)


def test_the_prompt_is_vicuna_v1(tiny):
    assert tiny.prompt_text("Hi").endswith("questions. USER: <image>\nHi ASSISTANT:")


def test_a_model_with_another_template_is_asked_in_its_own(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "style", None)
    assert tiny.prompt_text("Hi") == load("tiny").processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}],
        add_generation_prompt=True,
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "it is None. Ask something"),
        (open_image(example_picture()), "type Image, which looks like a picture"),
        (["What?", "Where?"], "type list, not text. .*ask_batch"),
        (b"What?", "type bytes"),
        (5, r"a number \(5\), not text"),
    ],
)
def test_what_is_no_question_is_named(tiny, picture, prompt, message):
    for ask in (tiny.ask, tiny.stream, tiny.caption_image, tiny.ask_batch):
        if not (ask == tiny.ask_batch and isinstance(prompt, list)):
            with pytest.raises(PromptError, match=message):
                ask(picture, prompt)
