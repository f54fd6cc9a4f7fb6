"""vram_report(): the loaded model tensor by tensor, a GPU of a few lines, and the real RAM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_nb import LlavaNbError, load, vram_report
from llava_nb.loading.load import release
from llava_nb.sizes import CUDA_CONTEXT, GIB, WEIGHTS
from llava_nb.vram import report as vram
from llava_nb.vram.report import VramReport, bytes_by_part

linux_only = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("quantization", ["4bit", "8bit", None])
def test_parts_are_the_models_own_footprint_and_the_scales_of_quantised_layers(quantization):
    release()
    network = load("tiny", quantization=quantization).model
    parts, footprint = bytes_by_part(network), network.get_memory_footprint()
    # transformers counts the numbers; beside them each 64 weights, or each row, have a scale.
    scales = sum(parts.values()) - footprint
    assert (0 < scales < 0.2 * parts["language model"]) if quantization else scales == 0, parts


def test_answering_adds_little_to_the_model(tiny, picture):
    before = sum(bytes_by_part(tiny.model).values())
    tiny.ask(picture, "Describe this picture.", max_new_tokens=4)
    after = sum(bytes_by_part(tiny.model).values())
    assert after == pytest.approx(before, rel=0.02), (before, after)


def test_a_tied_head_is_counted_once():
    layer = torch.nn.Linear(4, 4, bias=False)
    network = torch.nn.ModuleDict({"lm_head": layer, "model": torch.nn.ModuleDict({"same": layer})})
    assert sum(bytes_by_part(network).values()) == 4 * 4 * 4


def test_on_a_gpu_the_rows_and_what_is_free_are_the_total(cuda):
    release()
    cuda.allocate(6 * GIB)
    cuda.free(GIB)
    cuda.others = 2 * GIB
    report = vram_report()
    rows = dict(report.rows)
    assert (report.memory, report.owner, report.total_bytes) == ("VRAM", "Tesla T4", 16 * GIB)
    assert rows["kept by torch unused"] == GIB and rows["CUDA context"] == CUDA_CONTEXT
    assert rows["other processes"] == 2 * GIB - CUDA_CONTEXT
    assert sum(rows.values()) + report.free_bytes == report.total_bytes


def test_tokens_that_fit_go_by_what_is_free_or_unused(tiny, cuda, monkeypatch):
    cuda.allocate(3 * GIB)
    cuda.free(GIB)
    monkeypatch.setattr(vram, "bytes_by_part", lambda network: dict.fromkeys(WEIGHTS, 0))
    monkeypatch.setattr(type(tiny.model), "device", torch.device("cuda:0"))
    report = vram_report(tiny)
    assert report.tokens_that_fit == (13 + 1) * GIB // report.kv_bytes_per_token
    assert f"{report.tokens_that_fit:,} more tokens" in str(report)


@linux_only
def test_without_a_gpu_it_is_the_ram_and_says_so(tiny, no_gpu):
    report = vram_report()
    assert report.memory == "RAM" and "there is no GPU that torch can use" in str(report)
    assert report.model == "tiny in 4 bits" and set(WEIGHTS) <= set(report.parts)
    assert 0 < sum(report.parts.values()) < report.allocated_bytes < report.reserved_bytes
    assert report.kv_bytes_per_token == 2 * 5 * 128 * 4
    assert report.tokens_that_fit == report.free_bytes // report.kv_bytes_per_token


@linux_only
def test_in_ram_without_a_model_the_rows_and_what_is_free_are_the_total(no_gpu, monkeypatch):
    release()
    monkeypatch.setattr(vram, "ram_bytes", lambda: (100 * GIB, 60 * GIB))
    report = vram_report()
    assert sum(dict(report.rows).values()) + report.free_bytes == report.total_bytes
    assert not report.parts and report.tokens_that_fit is None
    assert "no model loaded" in str(report) and "more tokens" not in str(report)


def test_the_model_loaded_last_is_the_one_reported(tiny, tiny_folder, no_gpu):
    assert vram_report().model == "tiny in 4 bits"
    other = load(tiny_folder, quantization=None)
    assert vram_report().model == "copy unquantised"
    other.close()
    tiny = load("tiny")
    assert vram_report(tiny).model == vram_report().model == "tiny in 4 bits"
    tiny.close()
    assert vram_report(tiny).model is None


@pytest.mark.parametrize("llava", ["tiny", 3, Path("tiny"), {}, torch.nn.Linear(1, 1)])
def test_what_is_no_model_is_refused(llava):
    with pytest.raises(LlavaNbError, match=r"takes a loaded model, not .*load\("):
        vram_report(llava)


def test_what_nobody_knows_is_unknown(no_gpu, monkeypatch):
    monkeypatch.setattr(vram, "own_ram_bytes", lambda: (None, None))
    monkeypatch.setattr(vram, "ram_bytes", lambda: (None, None))
    report = vram_report(load("tiny"))
    assert report.tokens_that_fit is None and report.others_bytes is None
    assert "unknown" in str(report) and "role=" in report._repr_html_()


def test_the_text_has_a_line_for_each_row_and_the_total():
    about = {"memory": "VRAM", "owner": "Tesla T4", "model": "llava-1.5-13b in 4 bits"}
    sizes = {"total": 15, "free": 6, "allocated": 7, "reserved": 8, "context": 0.5, "others": 0.5}
    about |= {f"{name}_bytes": int(count * GIB) for name, count in sizes.items()}
    parts, token = {"language model": 6 * GIB}, 7 * GIB // 8192
    report = VramReport(**about, parts=parts, kv_bytes_per_token=token)
    assert str(report).splitlines() == [
        "VRAM of the Tesla T4: llava-1.5-13b in 4 bits",
        "language model           6.00 GiB",
        "other tensors            1.00 GiB",
        "kept by torch unused     1.00 GiB",
        "CUDA context             0.50 GiB  an allowance",
        "other processes          0.50 GiB",
        "free                     6.00 GiB",
        "---------------------------------",
        "total                   15.00 GiB",
        "8,192 more tokens of prompt and answer fit.",
    ]
    page = report._repr_html_()
    assert "free: 6.00 GiB" in page and "<b>VRAM of the Tesla T4" in page


def test_a_report_is_escaped():
    page = VramReport("RAM", "<b>me</b>", 10, 5, 3, 4, model="<img src=x>")._repr_html_()
    assert "<img" not in page and "&lt;img src=x&gt;" in page
