"""Prompt strings equal those that the original LLaVA code wrote (tests/data/templates.json)."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from llava_nb import PromptError, prompts

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "templates.json").read_text())


ORIGINALS = [style for style in prompts.STYLES if style in RECORDED]


@pytest.mark.parametrize("style", ORIGINALS)
def test_a_prompt_is_the_originals(style):
    question = prompts.with_image("What is this?")
    assert prompts.build([(question, None)], style) == RECORDED[style]["one_turn"]
    turns = [(question, "A cat."), ("What colour?", None)]
    assert prompts.build(turns, style) == RECORDED[style]["two_turns"]


@pytest.mark.parametrize("style", prompts.STYLES)
def test_text_stands_in_a_prompt_as_it_is(style):
    """Jinja, which fills the styles in, gives a meaning to braces and takes line ends away."""
    turns = [("{{ 1 }} <b> \\n 'one'\n", '"two"\n\n'), (" {% if %}\n", None)]
    built = prompts.build(turns, style)
    assert [built.count(text) for turn in turns for text in turn if text] == [1, 1, 1]


def test_the_default_is_what_llava_1_5_was_trained_with():
    assert {"vicuna_v1", "llava_v1", "llava_llama_2", "mistral_instruct"} == set(ORIGINALS)
    assert "curious user" in prompts.build([("Hi", None)])
    assert prompts.with_image("Before <image> after") == "Before <image> after"


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda: prompts.build([("Hi", None)], "v9"), "no conversation style 'v9'.*vicuna_v1"),
        (lambda: prompts.build([]), "at least one question"),
        (lambda: prompts.build([("One?", None)] * 2), "only the last may be None"),
        (lambda: prompts.check_images("<image>\nHi", 0), "no picture was given. Pass the picture"),
        (lambda: prompts.check_images("Hi", 1), r"1 picture\(s\), but .* holds <image> 0 time"),
        (lambda: prompts.with_image("<image> and <image>", 1), "holds <image> 2 time"),
    ],
)
def test_what_makes_no_prompt_is_refused(call, cause):
    with pytest.raises(PromptError, match=cause):
        call()


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (None, "no prompt: it is None"),
        (5, "a number .5., not text"),
        (numpy.float32(0.5), "a number .0.5., not text"),
        (Image.new("RGB", (2, 2)), "type Image, which looks like a picture.*swapped"),
        (Path("a.png"), "which looks like a picture.*swapped"),
        (b"png", "type bytes, which looks like a picture.*swapped"),
        (numpy.zeros((2, 2, 3)), "type ndarray, which looks like a picture.*swapped"),
        (torch.zeros(3, 2, 2), "type Tensor, which looks like a picture.*swapped"),
        (["One?", "Two?"], "type list, not text.*ask_batch.images, prompts. takes a list"),
        (("One?",), "type tuple, not text.*ask_batch"),
        ((each for each in "ab"), "type generator, not text.*ask_batch"),
        (numpy.array(["One?", "Two?"]), "type ndarray, not text.*ask_batch"),
        (object(), "type object, not text"),
        (" \n", "The prompt is empty"),
        ("\0\x1b", "nothing but control characters"),
    ],
    ids=lambda value: value if type(value) is str else type(value).__name__,
)
def test_what_is_no_question_is_told_for_what_it_is(given, cause):
    with pytest.raises(PromptError, match=f"{cause}.*Ask something: ask.image") as caught:
        prompts.check_question(given)
    assert ("empty" in str(caught.value)) == (type(given) is str and not given.strip(" \n"))


@pytest.mark.parametrize(
    ("given", "read"),
    [("What is this?\r\n\tThat?", "What is this?\r\n\tThat?"),
     ("half \ud83d of it", "half \ufffd of it"), ("the other \ude00", "the other \ufffd"),
     ("two halves \ud83d\ude00", "two halves \U0001f600"), ("a\0b\x1b[1mc\x85", "ab[1mc"),
     ("\ufeffa", "\ufeffa")],
)  # fmt: skip
def test_a_question_is_made_what_a_tokenizer_can_read(given, read):
    assert prompts.check_question(given) == read
