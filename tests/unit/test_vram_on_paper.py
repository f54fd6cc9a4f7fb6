"""LLaVA on paper: what is counted, what keeps its values, and that the estimate agrees."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import vram_on_paper  # noqa: E402
from caching_allocator import Blocks  # noqa: E402
from load_on_gpu import SHAPES  # noqa: E402
from model_on_paper import Linear, load_on_paper  # noqa: E402
from on_paper import OnPaper, answering  # noqa: E402
from vram_on_paper_table import Count, markdown, verdicts  # noqa: E402

from llava_nb import open_image, preallocated  # noqa: E402
from llava_nb.pictures import example_picture  # noqa: E402
from llava_nb.preallocated import PreallocatedLayer  # noqa: E402
from llava_nb.sizes import (  # noqa: E402
    GIB,  # noqa: E402
    linear_bytes,
    weights_by_part,
)

FEW = {name: replace(shape, layers=2, tower_layers=2) for name, shape in SHAPES.items()}
KIB = 1024


def test_a_tensor_counts_until_it_is_gone():
    blocks = Blocks()
    with OnPaper(blocks):
        first = torch.empty(1024, device="meta")
        second = (first + 1).half()
        held = blocks.allocated
        del first
    assert (held, blocks.allocated, blocks.peak_allocated) == (6 * KIB, 2 * KIB, 10 * KIB)
    assert second.is_meta


def test_a_view_is_not_counted_again():
    weight, blocks = torch.empty(64, 64, device="meta"), Blocks()
    with OnPaper(blocks):
        kept = [weight.t(), weight[:, 3:], weight.view(-1)]
    assert blocks.allocated == 0 and len(kept) == 3


def test_whole_numbers_and_truth_values_keep_theirs():
    blocks = Blocks()
    with OnPaper(blocks):
        ids = torch.tensor([1, 5, 9]).to("meta")
        mask = torch.ones(3, dtype=torch.bool, device="meta")
        assert ids.tolist() == [1, 5, 9] and bool(mask.all()) and (ids == 5).sum() == 1
        embedded = torch.nn.functional.embedding(ids, torch.empty(10, 4, device="meta"))
    assert embedded.is_meta and embedded.shape == (3, 4)


@pytest.mark.parametrize("stored", ["4bit", "8bit"])
def test_a_quantised_layer_keeps_what_the_formula_says(stored):
    blocks = Blocks()
    Linear(4096, 11008, stored, blocks)
    expected = linear_bytes(4096, 11008, stored)
    assert blocks.allocated == pytest.approx(expected, rel=0.03), (blocks.allocated, expected)
    assert blocks.peak_allocated > 2 * 4096 * 11008  # it came in half precision


@pytest.mark.parametrize(("tokens", "unpacks"), [(1, False), (64, False), (65, True)])
def test_a_product_of_many_tokens_unpacks_the_matrix(tokens, unpacks):
    layer, blocks = Linear(4096, 4096, "4bit", Blocks()), Blocks()
    with OnPaper(blocks):
        made = layer(torch.empty(1, tokens, 4096, dtype=torch.half, device="meta"))
    assert made.shape == (1, tokens, 4096)
    assert (blocks.peak_allocated > 2 * 4096 * 4096) is unpacks


@pytest.mark.parametrize("stored", ["4bit", "8bit", "none"])
@pytest.mark.parametrize("model", ["7b", "13b"])
def test_the_estimate_is_what_is_allocated(model, stored):
    shape = FEW[model]
    loaded, read, remembered = vram_on_paper.count(model, stored, shape, [4, 8])
    assert loaded.foretold == sum(weights_by_part(shape, vram_on_paper.STORED[stored]).values())
    apart = [round(100 * each.apart, 1) for each in (loaded, read)]
    assert max(map(abs, apart)) < 2, apart
    # The picture is remembered by then, and its activations are not needed again.
    assert remembered.allocated < read.allocated


@pytest.mark.parametrize("rows", [3, 8])
def test_the_estimate_is_what_a_batch_allocates(rows):
    _, answered = vram_on_paper.count("7b", "4bit", FEW["7b"], [3], rows=rows)
    assert abs(100 * answered.apart) < 5, answered.apart


def unused(layer_class, monkeypatch):
    """What lies unused after 1,000 tokens of four layers of a 13B, in bytes."""
    blocks = Blocks()
    monkeypatch.setattr(preallocated, "PreallocatedLayer", layer_class)
    cache = preallocated.cache_with_room(preallocated.Room(1600, 1600))
    with OnPaper(blocks):
        for tokens in [600, *[1] * 1000]:
            states = torch.empty(1, 40, tokens, 128, dtype=torch.half, device="meta")
            for layer in range(4):
                cache.update(states, states, layer)
    return blocks.reserved - blocks.allocated


def test_written_in_place_less_lies_unused(monkeypatch):
    anew = unused(vram_on_paper.AnewEachTime, monkeypatch)
    in_place = unused(PreallocatedLayer, monkeypatch)
    assert in_place < anew / 2, (in_place / 2**20, anew / 2**20)


def test_the_question_is_answered_with_as_many_tokens_as_asked():
    blocks = Blocks()
    llava = load_on_paper("7b", FEW["7b"], "4bit", blocks)
    with answering(llava, blocks) as ask:
        answer = ask(open_image(example_picture()), "What is this?", 5)
    assert answer.tokens == 5 and answer.finish == "limit"
    assert len(llava.prefixes) == 1  # the picture is remembered, as on a GPU


COUNT = Count("13b", "4bit", True, 1024, round(8.8 * GIB), round(8.6 * GIB), round(8.8 * GIB))


@pytest.mark.parametrize(
    ("count", "met"),
    [
        (COUNT, [True, True]),
        (replace(COUNT, foretold=10 * GIB), [False, True]),
        (replace(COUNT, reserved=round(9.1 * GIB)), [True, False]),
        (replace(COUNT, tokens=64), [True]),
        (replace(COUNT, rows=8, reserved=20 * GIB), [True]),
        (replace(COUNT, in_place=False, reserved=20 * GIB), []),
    ],
)
def test_bars(count, met):
    assert [each for *_, each in verdicts([count])] == met


def committed(stem):
    kept = json.loads((BENCHMARKS / "results" / f"{stem}.json").read_text())["counts"]
    counts = [Count(**each) for each in kept]
    assert all(met for *_, met in verdicts(counts)), verdicts(counts)
    return counts


def test_the_committed_figures_meet_every_bar_and_are_the_whole():
    counts = committed("vram_on_paper")
    ours = {(each.model, each.stored) for each in counts if each.in_place and each.tokens == 1024}
    assert ours == {(model, stored) for model in SHAPES for stored in vram_on_paper.STORED}


def test_the_committed_figures_of_a_batch_meet_every_bar():
    assert {each.rows for each in committed("vram_on_paper_8_rows")} == {8}


def test_the_table_says_that_no_gpu_was_used():
    text = markdown([COUNT])
    assert "No GPU was used" in text and "| 13b | 4bit | in place | 1,024 tokens |" in text
