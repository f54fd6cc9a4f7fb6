"""The streamer and the settings, with a tokenizer of five lines."""

import threading
from types import SimpleNamespace

import pytest
import torch

from llava_nb import PromptError
from llava_nb.generation import AnswerStream
from llava_nb.settings import Settings, StopWhen

END = 0


class Bytes:
    """One token a byte, as the worst case of a byte-level tokenizer."""

    def decode(self, ids, skip_special_tokens):
        return bytes(i for i in ids if i != END).decode(errors="replace")


def stream(limit=100, context=50, prompt=3):
    request = SimpleNamespace(ids=torch.ones(1, prompt, dtype=torch.long))
    made = AnswerStream(request, Bytes(), Settings(limit, 0.0, None), context, 0.0)
    made.put(request.ids)
    return made


def feed(made, text):
    for byte in text.encode():
        made.put(torch.tensor([byte]))


def test_the_prompt_is_no_part_of_the_answer():
    made = stream()
    feed(made, "hi")
    assert made.text == "hi"


def test_half_a_character_is_held_back():
    made = stream()
    made.listen()
    feed(made, "é!")
    made.work(made.end)
    assert list(made.pieces()) == ["é", "!"]


def test_pieces_join_to_the_text_with_spaces_and_lines():
    made = stream()
    made.listen()
    feed(made, "  two words\n\nand 한국어  ")
    made.work(made.end)
    assert "".join(made.pieces()) == made.text == "two words\n\nand 한국어"


def test_a_fault_in_the_worker_reaches_the_reader():
    made = stream()
    made.listen()

    def fail():
        raise RuntimeError("the model broke")

    made.work(fail)
    with pytest.raises(RuntimeError, match="the model broke"):
        list(made.pieces())


def test_the_limit_is_what_the_context_leaves():
    assert stream(limit=100, context=50, prompt=3).limit == 47


def test_a_prompt_that_fills_the_context_says_by_how_much():
    with pytest.raises(PromptError, match="has 52 tokens.*holds 50. Shorten it by 3"):
        stream(prompt=52)


@pytest.mark.parametrize(
    ("text", "limit", "finish"), [("ab\0", 9, "eos"), ("ab", 2, "limit"), ("ab", 9, "stopped")]
)
def test_how_an_answer_finished(text, limit, finish):
    made = stream(limit=limit)
    feed(made, text)
    assert made.answer(None, END).finish == finish


def test_an_end_on_the_last_token_is_no_cut():
    made = stream(limit=3)
    feed(made, "ab\0")
    assert made.answer(None, [END, 7]).finish == "eos"


def test_stopping_answers_for_every_row():
    stop = threading.Event()
    stop.set()
    assert StopWhen(stop)(torch.ones(3, 5), None).tolist() == [True, True, True]


def test_greedy_arguments_name_no_temperature():
    assert Settings(5, 0.0, None).arguments == {"do_sample": False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0.0, None), "max_new_tokens is 0.*a whole number from 1 on"),
        ((2.5, 0.0, None), "max_new_tokens is 2.5"),
        ((5, -1, None), "temperature is -1; take 0"),
        ((5, 0.5, 0), "top_p is 0; take a share"),
        ((True, 0.0, None), "max_new_tokens is True"),
        ((5, "warm", None), "temperature is 'warm'"),
        ((5, float("nan"), None), "temperature is nan"),
        ((5, 0.0, None, True), r"stop is True; .*threading.Event\(\)"),
        ((5, 0.0, 0.9), "give a temperature as well"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(PromptError, match=message):
        Settings(*settings)


@pytest.mark.parametrize("same", [(5.0, None, 1), ("5", "0", "1.0"), (5, 1e-300, None)])
def test_numbers_count_however_they_came(same):
    assert Settings(*same).arguments == {"do_sample": False} and Settings(*same).max_new_tokens == 5
