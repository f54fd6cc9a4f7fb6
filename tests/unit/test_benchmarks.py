"""The comparisons: each runs at a tiny size and says something, and the bars are what they are.

No figure is judged here: whoever wants to know runs the script on a quiet machine.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import bandwidth  # noqa: E402
import batch  # noqa: E402
import comparison  # noqa: E402
import decode  # noqa: E402
import followup  # noqa: E402
import mid_size_model  # noqa: E402
import overhead  # noqa: E402
from comparison import Comparison  # noqa: E402
from in_turn import Timed, in_turn  # noqa: E402
from stock import exactly, fresh_picture, generate  # noqa: E402

from llava_nb import load  # noqa: E402
from llava_nb.fast import FastDecoder, FastReport  # noqa: E402
from llava_nb.sizes import parameters, tower_parameters  # noqa: E402

CPU = torch.device("cpu")


def compared(stem, *, seconds, bar=2.0, judged=True):
    """A comparison of two ways, the first of which takes these seconds, the other 1."""
    timed = Timed("small", {"slow": [seconds], "quick": [1.0]})
    verdict = comparison.at_least(stem, timed.times_as_fast("quick", "slow"), bar, judged=judged)
    return Comparison("Title", "Said.", ("model",), [("small",)], [verdict], [timed], "a CPU", 1)


def printed_figures(text):
    """The numbers in the rows of the first table, the words left out."""
    rows = text.split("| --- |")[1].splitlines()[1:]
    cells = [cell for row in rows if row for cell in row.split("|")[2:-1]]
    return [float(found) for cell in cells for found in re.findall(r"-?\d+\.\d+", cell)]


@pytest.mark.parametrize("module", [followup, batch, overhead, decode])
def test_it_runs_quickly_and_has_figures_in_its_table(module, capsys, monkeypatch):
    kept = []
    monkeypatch.setattr(comparison, "write_results", lambda *_: kept.append(_))
    monkeypatch.setattr(bandwidth, "BLOCK_BYTES", {"cuda": 2**20, "cpu": 2**20})
    code = module.main(["--quick", "--write"])
    text = capsys.readouterr().out
    figures = printed_figures(text)
    assert code == 0 and not kept, "a quick run is neither judged nor kept"
    assert figures and all(math.isfinite(each) for each in figures), text
    assert "thread(s), on a CPU" in text or torch.cuda.is_available(), text


def test_a_follow_up_is_the_same_prompt_and_reads_the_rest_alone():
    timed = followup.follow_up(mid_size_model.make_mid_size(quick=True), 2, 4)
    facts = timed.facts
    assert timed.times_as_fast("chat", "fresh") > 0
    assert facts["image_tokens"] == 576 < facts["reused_tokens"] < facts["prompt_tokens"], facts


def test_a_batch_and_the_loop_answer_the_same_pictures():
    timed = batch.batches(load("tiny"), 1, 5, 32)
    assert set(timed.seconds) == {"loop", "4", "8", "16"}
    assert all(0 < timed.times_as_fast(size, "loop") < 1000 for size in ("4", "8", "16"))
    assert all(same >= 4 for same in timed.facts["same"].values()), timed.facts


def test_overhead_makes_as_many_tokens_on_either_side(tiny):
    timed = overhead.overhead(tiny, 2, 24)
    assert all(0 < timed.median(way) < 60 for way in timed.seconds), timed
    assert all(0 <= same <= 2 for same in timed.facts["same"].values()), timed.facts


def test_overhead_refuses_to_compare_different_work(tiny, monkeypatch):
    monkeypatch.setattr(overhead, "generate", lambda *_: ([1, 2], 80))
    with pytest.raises(RuntimeError, match="not the same work: 2 tokens, and 3 tokens"):
        overhead.overhead(tiny, 1, 3)


def test_overhead_leaves_the_model_as_it_was(tiny):
    before = tiny.prefixes.limit_bytes, tiny.model.generation_config.to_dict()
    overhead.overhead(tiny, 1, 2)
    assert (tiny.prefixes.limit_bytes, tiny.model.generation_config.to_dict()) == before


def test_decoding_compares_the_two_where_there_are_two(tiny):
    tiny.decoder = decoder = FastDecoder(lambda step: step)
    try:
        timed = decode.decoding(tiny, 2, 4)
        assert tiny.decoder is decoder
    finally:
        tiny.decoder = None
    assert set(timed.seconds) == {"stock", "fast"} and timed.times_as_fast("fast", "stock") > 0


@pytest.mark.parametrize(("seconds", "met"), [(2.0, True), (4.0, False)])
def test_fast_decoding_has_to_be_twice_as_fast_for_13b(seconds, met):
    timed = Timed("13b", {"stock": [4.0], "fast": [seconds]})
    assert decode._verdict([timed], judged=True)[-1] is met
    assert decode._verdict([timed], judged=False)[-1] is None


def test_fast_decoding_that_stayed_off_misses_the_bar():
    timed = Timed("13b", {"stock": [4.0]})
    assert decode._verdict([timed], judged=True)[-1] is False


def test_why_fast_decoding_is_off_is_in_the_table(tiny, monkeypatch):
    monkeypatch.setattr(bandwidth, "BLOCK_BYTES", {"cuda": 2**20, "cpu": 2**20})
    report = FastReport(False, "it is a Tuesday")
    monkeypatch.setattr(decode, "speed_up", lambda llava: report)
    text = decode.measure(1, 3).markdown()
    tiny.fast = None
    assert "Fast decoding is off: it is a Tuesday." in text and "| off |" in text, text


def test_a_token_reads_the_language_model_and_what_was_said(tiny):
    network = tiny.model
    words = [network.model.language_model.layers, network.model.language_model.norm]
    linears = sum(each.nbytes for part in words for each in part.parameters())
    read = bandwidth.bytes_per_token(tiny, 0)
    # The scales of 4-bit layers are not among their parameters: an eighth of a byte in each eight.
    assert linears + network.lm_head.weight.nbytes < read < 1.1 * linears + 2**20
    context = tiny.model.config.text_config
    per_token = 2 * context.num_hidden_layers * context.hidden_size * network.dtype.itemsize
    assert bandwidth.bytes_per_token(tiny, 7) - read == 7 * per_token


def test_the_mid_size_model_has_the_size_and_the_proportions_that_it_says():
    shape = mid_size_model.SHAPE
    assert parameters(shape) == pytest.approx(100e6, rel=0.05) and shape.image_tokens == 576
    assert tower_parameters(shape) / parameters(shape) == pytest.approx(0.043, abs=0.002)


def test_both_sides_are_forced_to_one_length_and_only_for_a_while(tiny):
    text = tiny.prompt_text("Is there a star?")
    before = tiny.model.generation_config.min_new_tokens
    with exactly(tiny, 30):
        ids, _ = generate(tiny, fresh_picture(1), text, 30)
    assert len(ids) == 30 and tiny.model.generation_config.min_new_tokens == before


def test_every_round_begins_with_another_way_and_the_first_is_not_kept():
    taken = []
    ways = {name: lambda number, name=name: taken.append((number, name)) for name in "ab"}
    timed = in_turn("small", ways, 2, lambda number: number, device=CPU)
    assert taken == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert [len(each) for each in timed.seconds.values()] == [2, 2]


def test_ways_are_compared_by_their_medians():
    timed = Timed("small", {"one": [1.0, 2.0, 90.0], "other": [6.0, 5.0, 7.0]})
    assert timed.times_as_fast("one", "other") == 3.0


@pytest.mark.parametrize(("seconds", "code"), [(2.0, 0), (1.9, 1)])
def test_a_missed_bar_is_the_exit_code(seconds, code, tmp_path, capsys):
    options = argparse.Namespace(quick=False, write=False)
    assert comparison.finish("x", compared("x", seconds=seconds), options, tmp_path) == code
    assert ("MISSED" in capsys.readouterr().out) is bool(code)


def test_what_is_not_judged_is_not_missed():
    table = compared("x", seconds=1.0, judged=False)
    assert not table.missed and "| x | 1.0 | at least 2 | not measured |" in table.markdown()


def test_every_round_is_kept(tmp_path, capsys):
    options = argparse.Namespace(quick=False, write=True)
    comparison.finish("figures", compared("x", seconds=3.0), options, tmp_path)
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["measured"][0]["seconds"] == {"slow": [3.0], "quick": [1.0]}
    assert kept["machine"] == "a CPU" and "transformers" in kept["versions"]
    assert (tmp_path / "figures.md").read_text() == capsys.readouterr().out.rstrip("\n") + "\n"


def test_a_machine_that_was_not_quiet_shows():
    ways = {"asleep": lambda _: time.sleep(0.05), "at work": lambda _: sum(range(10**5))}
    timed = in_turn("small", ways, 1, lambda number: number, device=CPU)
    assert timed.processor_share < 0.9, timed
    table = dataclasses.replace(compared("x", seconds=1.0), measured=[timed])
    assert f"were {100 * timed.processor_share:.0f} % of the clock's" in table.markdown()
