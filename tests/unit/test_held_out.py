"""What is held out is pushed neither up nor down: the words that a label is not compared with."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch.nn import functional

from llava_lessons.tiny.build import build_tokenizer
from llava_lessons.tiny.held_out import HeldOutWords
from llava_lessons.tiny.language import without
from llava_lessons.tiny.packing import Encoder, pack, sample_texts
from llava_lessons.tiny.scenes import HELD_OUT_PAIRS, sample_scene


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(sample_texts(scenes=300))


@pytest.fixture(scope="module")
def thing():
    return sample_scene(Random(0), count=1).things[0]


def barred(tokenizer, answer, about=None):
    """The words of an answer, and what each is not compared with."""
    ids = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    words = [
        [tokenizer.decode([each]).strip() for each in found if each >= 0]
        for found in HeldOutWords(tokenizer).beside(ids, about)
    ]
    names = [tokenizer.decode([each]).strip() for each in ids]
    return {name: found for name, found in zip(names, words, strict=True) if found}


def test_in_a_caption_each_pair_bars_its_other_halves(tokenizer):
    # Held out: red star, purple square, yellow circle, and no pair with cyan.
    assert barred(tokenizer, "A large red square above a small cyan circle.") == {
        "red": ["purple"],
        "square": ["star"],
        "cyan": ["yellow"],
    }


def test_of_a_single_word_the_thing_tells_the_other_half(tokenizer, thing):
    green = replace(thing, colour="green", shape="square")
    assert barred(tokenizer, "A square.", green) == {"square": ["cross"]}
    assert barred(tokenizer, "Green.", green) == {"Green": ["Purple"]}


def test_a_colour_without_a_name_bars_what_its_nearest_bars(tokenizer, thing):
    bluish = replace(thing, colour="", rgb=(40, 70, 220), shape="star")
    assert barred(tokenizer, "A star.", bluish) == {"star": ["triangle"]}


@pytest.mark.parametrize("answer", ["Yes.", "Two.", "White.", "I cannot tell from this picture."])
def test_other_answers_are_compared_with_all(tokenizer, thing, answer):
    assert barred(tokenizer, answer, thing) == {}


def test_a_barred_word_is_pushed_neither_up_nor_down():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows = without(logits, torch.tensor([[3, -1], [-1, -1]]))
    functional.cross_entropy(rows, torch.tensor([1, 1])).backward()
    assert logits.grad[0, 3] == 0 and logits.grad[1, 3] != 0, logits.grad


def test_in_a_batch_no_answer_is_compared_with_a_held_out_pair(tokenizer):
    random = Random(1)
    batch = pack(random, Encoder(tokenizer), [sample_scene(random) for _ in range(24)], seeing=True)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    seen = 0
    for row, place in (batch.labels >= 0).nonzero().tolist():
        # Two words of an answer that follow each other, the first as told, not as hidden.
        pair = [
            words[each].lstrip("Ġ")
            for each in batch.labels[row, place - 1 : place + 1]
            if each >= 0
        ]
        held = [shape for colour, shape in HELD_OUT_PAIRS if pair[:1] == [colour]]
        if len(pair) == 2 and held and pair[1] in {shape for _, shape in HELD_OUT_PAIRS}:
            excluded = [words[each].lstrip("Ġ") for each in batch.barred[row, place] if each >= 0]
            assert excluded == held, (pair, excluded)
            seen += 1
    assert seen > 20, seen
