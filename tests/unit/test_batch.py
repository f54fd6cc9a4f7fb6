"""Many at once: the answers of one by one, in order, none lost."""

from random import Random

import numpy as np
import pandas
import pytest
import torch
from close_words import same_but_for_ties

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import ImageError, OutOfVramError, PromptError, load
from llava_nb.inference import engine
from llava_nb.inference.kv_cache import Room

DESCRIBE, COUNT = "Describe this picture.", "How many things are there?"
PICTURES = [draw(sample_scene(Random(f"batch {at}"), count=at % 4)) for at in range(12)]


@pytest.fixture
def exact():
    """The embedded model in float32: then rows side by side change no word."""
    return load("tiny", quantization=None)


def one_by_one(llava, pictures, prompts):
    return [llava.ask(*pair).ids for pair in zip(pictures, prompts, strict=True)]


@pytest.mark.parametrize("quantization", ["4bit", None])
def test_answers_are_those_of_one_by_one_in_order(quantization):
    llava = load("tiny", quantization=quantization)
    prompts = [(DESCRIBE, COUNT, "Is there a red star?")[at % 3] for at in range(12)]
    answers = llava.ask_batch(PICTURES, prompts, batch_size=5)
    alone = one_by_one(llava, PICTURES, prompts)
    for picture, prompt, answer, ids in zip(PICTURES, prompts, answers, alone, strict=True):
        text = llava.prompt_text(prompt)
        assert same_but_for_ties(llava, picture, text, ids, answer.ids)


def test_many_prompts_about_one_picture_or_none(exact):
    texts = [answer.text for answer in exact.ask_batch(PICTURES[2], [COUNT, DESCRIBE])]
    assert texts == [exact.ask(PICTURES[2], prompt).text for prompt in (COUNT, DESCRIBE)]
    answers = exact.ask_batch([None, PICTURES[1]], ["Hello.", COUNT])
    assert [each.text for each in answers] == [exact.ask(None, "Hello.").text, "One."]
    assert exact.ask_batch([], DESCRIBE) == []


def test_figures_of_each_answer(exact):
    short, long = exact.ask_batch([PICTURES[1], PICTURES[3]], [COUNT, DESCRIBE])
    assert short.finish == long.finish == "eos"
    assert (short.tokens, len(long.ids)) == (len(short.ids), long.tokens)
    assert 0 < short.first_token_seconds <= short.seconds < long.seconds
    assert long.prompt_tokens == exact.ask(PICTURES[3], DESCRIBE).prompt_tokens
    answers = exact.ask_batch(PICTURES[1:3], [COUNT, DESCRIBE], max_new_tokens=4)
    assert [(answer.finish, answer.tokens) for answer in answers] == [("eos", 3), ("limit", 4)]


@pytest.mark.parametrize(
    ("picture", "prompt", "kind", "message"),
    [("nowhere.png", COUNT, ImageError, "no file 'nowhere.png'"),
     (PICTURES[3], "long " * 2500, PromptError, "Shorten it by"),
     (PICTURES[3], "\ud83d", None, "")],
)  # fmt: skip
def test_what_is_wrong_fails_alone(exact, picture, prompt, kind, message):
    answers = exact.ask_batch([PICTURES[1], picture, PICTURES[2]], [COUNT, prompt, COUNT])
    assert [answers[0].text, answers[2].text] == ["One.", "Two."]
    assert (answers[1].finish == "failed") == bool(kind) and message in str(answers[1])
    assert kind is None or (isinstance(answers[1].error, kind) and answers[1].text == "")


def fits(monkeypatch, llava, most):
    """Memory runs out whenever more rows than that are generated at once; return the sizes."""
    sizes, real = [], llava.model.generate

    def generate(**arguments):
        sizes.append(len(arguments["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(**arguments)

    monkeypatch.setattr(llava.model, "generate", generate)
    return sizes


def test_out_of_memory_halves_the_batch_and_loses_nothing(exact, monkeypatch):
    expected = one_by_one(exact, PICTURES, [DESCRIBE] * 12)
    sizes = fits(monkeypatch, exact, 3)
    answers = exact.ask_batch(PICTURES, DESCRIBE, batch_size=8)
    assert [answer.ids for answer in answers] == expected
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]


def test_what_does_not_fit_alone_fails_alone_and_other_faults_are_not_swallowed(exact, monkeypatch):
    fits(monkeypatch, exact, 0)
    answers = exact.ask_batch(PICTURES[:2], DESCRIBE)
    assert all(isinstance(answer.error, OutOfVramError) for answer in answers), answers
    monkeypatch.setattr(exact.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exact.ask_batch(PICTURES[:2], DESCRIBE)


def test_after_stop_the_rest_is_empty(exact):
    class AfterTheFirst:
        calls = 0

        def is_set(self):
            self.calls += 1
            return self.calls > 4  # looked at before a batch and after each of its three tokens

    answers = exact.ask_batch(PICTURES[1:4], COUNT, batch_size=1, stop=AfterTheFirst())
    assert [answer.text for answer in answers] == ["One.", "", ""]
    assert [answer.finish for answer in answers] == ["eos", "stopped", "stopped"]


@pytest.mark.parametrize(
    ("images", "prompts", "size", "message"),
    [
        (PICTURES[:2], [COUNT] * 3, 8, "There are 2 pictures and 3 prompts"),
        (PICTURES[:1], [""], 8, "The prompt is empty"),
        (PICTURES[1:3], [COUNT, None], 8, "Of 2 prompts, number 2: There is no prompt"),
        (PICTURES, COUNT, 0, "batch_size is 0"),
        ({"a.png", "b.png"}, COUNT, 8, "are a set, .*sorted"),
        (pandas.DataFrame(), COUNT, 8, "one column"),
    ],
)
def test_what_does_not_match_is_refused(exact, images, prompts, size, message):
    with pytest.raises(PromptError, match=message):
        exact.ask_batch(images, prompts, batch_size=size)


@pytest.mark.parametrize(
    ("free", "limit", "first"),
    [(10**12, 1000, 1100), (10**6, 1000, 228), (None, 1000, 1100), (0, 20, 120)],
)
def test_there_is_room_for_the_longest_answer_where_that_is_free(
    tiny, monkeypatch, free, limit, first
):
    monkeypatch.setattr(engine, "free_bytes", lambda device: free)
    assert tiny.engine.room_for_batch(8, 100, limit) == Room(first, 100 + limit)


def test_answers_outgrow_the_room_for_short_ones(exact, monkeypatch):
    alone = one_by_one(exact, PICTURES, [DESCRIBE] * 12)
    monkeypatch.setattr(engine, "free_bytes", lambda device: 0)
    monkeypatch.setattr(engine, "SHORT_ANSWER", 2)
    assert [answer.ids for answer in exact.ask_batch(PICTURES, DESCRIBE)] == alone


def test_pictures_may_come_as_any_row_of_them(exact):
    row = {1: PICTURES[1], 2: PICTURES[2]}
    array = np.stack([np.asarray(each) for each in row.values()])
    for images in (row.values(), iter(row.values()), pandas.Series(row), array):
        assert [each.text for each in exact.ask_batch(images, COUNT)] == ["One.", "Two."]
