"""Prompt strings equal those that the original LLaVA code wrote (tests/data/templates.json)."""

import json
from pathlib import Path

import pytest

from llava_nb import PromptError, prompts

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "templates.json").read_text())


@pytest.mark.parametrize("style", prompts.STYLES)
def test_one_turn_is_the_originals(style):
    question = prompts.with_image("What is this?")
    assert prompts.build([(question, None)], style) == RECORDED[style]["one_turn"]


@pytest.mark.parametrize("style", [each for each in prompts.STYLES if each != "plain"])
def test_two_turns_are_the_originals(style):
    first = (prompts.with_image("What is this?"), "A cat.")
    built = prompts.build([first, ("What colour?", None)], style)
    assert built == RECORDED[style]["two_turns"]


def test_the_plain_style_has_no_second_turn():
    """Nor has the original's: it raises TypeError there."""
    with pytest.raises(PromptError, match='"plain" has one turn; use another'):
        prompts.build([("One?", "A cat."), ("Two?", None)], "plain")


def test_the_default_is_what_llava_1_5_was_trained_with():
    assert "curious user" in prompts.build([("Hi", None)])


def test_a_question_may_place_its_picture_itself():
    assert prompts.with_image("Before <image> after") == "Before <image> after"


def test_unknown_style_lists_the_known_ones():
    with pytest.raises(PromptError, match="no conversation style 'v9'.*vicuna_v1"):
        prompts.build([("Hi", None)], "v9")


def test_no_turns():
    with pytest.raises(PromptError, match="at least one question"):
        prompts.build([])


def test_an_unanswered_turn_in_the_middle():
    with pytest.raises(PromptError, match="only the last may be None"):
        prompts.build([("One?", None), ("Two?", None)])


def test_image_token_without_a_picture():
    with pytest.raises(PromptError, match="no picture was given. Pass the picture"):
        prompts.check_images("<image>\nWhat is this?", 0)


def test_picture_without_an_image_token():
    with pytest.raises(PromptError, match=r"1 picture\(s\), but the prompt holds <image> 0 time"):
        prompts.check_images("What is this?", 1)


def test_more_image_tokens_than_pictures():
    with pytest.raises(PromptError, match="holds <image> 2 time"):
        prompts.with_image("<image> and <image>", 1)
