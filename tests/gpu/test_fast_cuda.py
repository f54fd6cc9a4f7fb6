"""Compiled steps on a real GPU: the answers, and that a report is made."""

import pytest

from llava_nb import example_picture, load

pytestmark = pytest.mark.gpu


def test_fast_answers_are_the_stock_ones():
    stock = load("tiny").ask(example_picture(), "Describe this picture.").text
    llava = load("tiny", fast=True)
    assert llava.fast.stock_tokens_per_second > 0, llava.fast
    assert llava.ask(example_picture(), "Describe this picture.").text == stock, llava.fast


def test_a_conversation_goes_on_with_fast_steps():
    llava = load("tiny", fast=True)
    chat = llava.chat(example_picture())
    chat.ask("Describe this picture.")
    assert chat.ask("How many things are there?").reused_tokens > 0
