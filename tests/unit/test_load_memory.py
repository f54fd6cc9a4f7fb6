"""The benchmark of memory for loading, at a small size: the figures have to make sense.

Two fresh processes run side by side, one for each layout; what needs such a process looks at
these two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import fresh_loads  # noqa: E402
import load_memory  # noqa: E402
import load_memory_table as table  # noqa: E402
import load_on_gpu  # noqa: E402
import memory_limit  # noqa: E402
import process_memory  # noqa: E402
from checkpoints_to_measure import shape_for, weight_file_sizes, write_checkpoint  # noqa: E402
from load_memory_table import MB, Limited, Row  # noqa: E402

from llava_nb import load  # noqa: E402
from llava_nb.sizes import FULL, GIB, parameters, weights_bytes  # noqa: E402

linux_only = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
# Wide, so that what is freed while loading is above the size that load() keeps out of the heap;
# smaller blocks stay with the process, and would hide what is in use.
SHAPE = dataclasses.replace(shape_for(400 * MB), layers=4, vocabulary=1024)
ALLOCATE = "import sys; sys.stdin.readline(); x = b'x' * (200 * 10**6)"
ROW = Row(
    loader="llava_nb",
    layout="original",
    shards=1,
    file_bytes=2000 * MB,
    seconds=9.0,
    cpu_seconds=8.0,
    threads=1,
    model_bytes=600 * MB,
    imports_anonymous=300 * MB,
    peak_anonymous=700 * MB,
    left_anonymous=650 * MB,
    peak_file=2100 * MB,
    unseen=0,
    longest_gap=0.1,
    swapped=0,
    asked_for=1200 * MB,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights in two shards of either layout."""
    place = tmp_path_factory.mktemp("checkpoints")
    return {
        layout: write_checkpoint(place / layout, SHAPE, layout, 2)
        for layout in ("original", "transformers")
    }


@pytest.fixture(scope="module")
def measured(folders, tmp_path_factory):
    """A row of either benchmark, each from a process of its own."""
    place = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(load_on_gpu, "ANSWER_TOKENS", 2)
        row = pool.submit(
            load_memory.measure, "llava_nb", "original", folders["original"], SHAPE, limit=False
        )
        gpu_row = pool.submit(
            load_on_gpu.measure_on_gpu, "small", SHAPE, "transformers", 2, place / "small"
        )
        return row.result(), gpu_row.result()


@linux_only
def test_the_model_is_as_large_as_the_formula_says(measured):
    expected = weights_bytes(SHAPE, "4bit", FULL)
    for row in measured:
        assert row.model_bytes == pytest.approx(expected, rel=0.03), row


@linux_only
def test_the_peak_holds_the_model_and_little_more(measured):
    """What the libraries take of their own is as large as this small file."""
    row, gpu_row = measured
    for peak in (row.peak_anonymous, gpu_row.peak_ram):
        over = peak - row.model_bytes
        assert 0 < over < 64 * MB, f"{over / MB:.1f} MB over the model"


@linux_only
def test_mapped_files_are_counted_apart(measured):
    row, gpu_row = measured
    assert row.peak_file > row.file_bytes and gpu_row.peak_file > gpu_row.file_bytes, measured


@linux_only
def test_the_readings_say_what_they_may_have_missed(measured):
    row, _ = measured
    assert 0 < row.longest_gap < 60 and 0 <= row.unseen < 5 * MB, row


@linux_only
def test_on_a_cpu_everything_but_vram_is_measured(measured):
    _, row = measured
    assert row.device == "CPU" and row.load_seconds > 0 and row.foretold_vram > GIB // 2
    assert 1 <= row.answer_tokens <= 2, row
    assert row.vram_allocated_loading is None and row.vram_used_answering is None
    assert dict(row.verdicts)["the VRAM foretold is enough"] is None
    assert "| the VRAM foretold is enough | not measured |" in load_on_gpu.markdown(row)


@linux_only
@pytest.mark.gpu
def test_on_a_gpu_vram_is_measured_too(tmp_path):
    row = load_on_gpu.measure_on_gpu("small", SHAPE, "original", 2, tmp_path)
    assert row.device != "CPU" and row.model_bytes < row.vram_allocated_loading, row
    assert row.vram_allocated_loading <= row.vram_reserved_loading <= row.vram_used_loading, row


def test_both_layouts_hold_the_same_weights(folders):
    one = load(folders["original"], quantization=None).model.state_dict()
    other = load(folders["transformers"], quantization=None).model.state_dict()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert one.keys() == other.keys() and not different


def test_shards_are_of_about_one_size(tmp_path):
    sizes = weight_file_sizes(write_checkpoint(tmp_path, shape_for(20 * MB), "original", 4))
    assert len(sizes) == 4 and max(sizes) < 1.3 * min(sizes), sizes


@pytest.mark.parametrize("size", [30 * MB, 200 * MB, 2 * GIB])
def test_a_shape_has_the_size_asked_for(size):
    assert weights_bytes(shape_for(size), None) == pytest.approx(size, rel=0.04)


def test_the_true_shapes_are_those_of_the_catalog():
    counts = {name: parameters(shape) / 1e9 for name, shape in load_on_gpu.SHAPES.items()}
    assert counts == pytest.approx({"7b": 7.06, "13b": 13.35}, abs=0.01)


def test_gpu_without_one_says_so(monkeypatch):
    monkeypatch.setattr(
        load_on_gpu, "check_gpu", lambda **_: argparse.Namespace(no_cuda_reason="x")
    )
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU: x. On the CPU"):
        load_on_gpu.report(load_memory.parse(["--gpu", "7b"]))


def test_too_small_a_disk_is_noticed_first(tmp_path):
    with pytest.raises(SystemExit, match=r"needs .* GiB in .* another disk: --folder"):
        fresh_loads.check_disk(tmp_path, 2**60)


@linux_only
def test_the_watch_sees_a_peak_that_is_gone_at_the_mark():
    watch = process_memory.Watch(os.getpid())
    watch.start()
    before = watch.mark().now.anonymous
    # Asked of the kernel: Python's own might come out of a hole in the heap, and add nothing.
    block = mmap.mmap(-1, 100 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, 100 * MB, mmap.PAGESIZE):
        block[page] = 1
    process_memory.time.sleep(10 * process_memory.INTERVAL_SECONDS)
    block.close()
    mark = watch.mark()
    watch.stop()
    assert mark.peak.anonymous - before > 90 * MB > mark.now.anonymous - before, mark


def outcome(most):
    """Whether a process that takes 200 MB ends well under this limit, and was killed."""
    process = subprocess.Popen([sys.executable, "-c", ALLOCATE], stdin=subprocess.PIPE)
    try:
        with memory_limit.limited(most) as limit:
            limit.add(process.pid)
            process.communicate(b"\n")
            return process.returncode == 0, limit.kills > 0
    except memory_limit.NoLimitError as error:
        process.communicate(b"\n")
        pytest.skip(str(error))


def test_a_limit_lets_through_what_fits():
    assert outcome(400 * MB) == (True, False)


def test_a_limit_ends_what_does_not_fit():
    assert outcome(100 * MB) == (False, True)


def fake_cgroups(monkeypatch, folder, own, controllers):
    """A machine whose own process is in `own`, in version 2 of cgroups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(f"0::{own}\n")
    (folder / own.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.subtree_control").write_text(controllers)
    monkeypatch.setattr(memory_limit, "PROC", folder / "proc")
    monkeypatch.setattr(memory_limit, "CGROUP", folder)


def test_version_2_gets_a_cgroup_beside_its_own(monkeypatch, tmp_path):
    fake_cgroups(monkeypatch, tmp_path, "/session", "cpu memory")
    made = memory_limit._make(123)
    assert made.folder.parent == tmp_path and made.without_swap
    assert (made.folder / "memory.max").read_text() == "123"
    assert (made.folder / "memory.swap.max").read_text() == "0"


def test_without_a_memory_cgroup_there_is_no_limit(monkeypatch, tmp_path):
    fake_cgroups(monkeypatch, tmp_path, "/session", "cpu")
    result = fresh_loads.load_limited("llava_nb", tmp_path / "model", 123)
    assert result.completed is None and "systemd-run" in result.said
    label, figure, _, met = table.verdicts([dataclasses.replace(ROW, limited=result)])[1]
    assert figure == "no limit could be set" and met is None, label


def test_what_the_check_refuses_is_loaded_without_it(monkeypatch, tmp_path):
    def once(loader, folder, most, *, check):
        said = "Traceback\nllava_nb.errors.DoesNotFitError: too large" if check else ""
        return Limited(most, completed=not check, said=said)

    monkeypatch.setattr(fresh_loads, "_limited_once", once)
    result = fresh_loads.load_limited("llava_nb", tmp_path, 10**9)
    assert result.completed and result.refused == "DoesNotFitError: too large"
    met = [row[3] for row in table.verdicts([dataclasses.replace(ROW, limited=result)])]
    assert met == [True, True, False]


@pytest.mark.parametrize(("peak", "met"), [(1200, True), (1201, False)])
def test_the_bar_is_the_model_and_600_mb(peak, met):
    row = dataclasses.replace(ROW, peak_anonymous=peak * MB)
    assert table.missed([row]) is not met
    assert ("MISSED" in table.markdown(SHAPE, [row])) is not met


@pytest.mark.parametrize(("peak", "met"), [(600, True), (590, False)])
def test_shards_may_be_15_percent_apart(peak, met):
    rows = [ROW, dataclasses.replace(ROW, shards=8, peak_anonymous=peak * MB)]
    assert table.missed(rows) is not met, table.verdicts(rows)


def test_a_control_that_completes_is_a_miss():
    assert table.missed([ROW], [Limited(10**9, completed=True)])
    assert not table.missed([ROW], [Limited(10**9, completed=False, killed=True)])


def test_results_are_kept_in_bytes(tmp_path):
    table.write_results("figures", "text", {"shape": SHAPE, "rows": [ROW]}, tmp_path)
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert kept["rows"][0]["model_bytes"] == ROW.model_bytes and "torch" in kept["versions"]
    assert (tmp_path / "figures.md").read_text() == "text"


def test_a_load_that_fails_says_why(monkeypatch, tmp_path):
    failed = process_memory.Run(code=1, said="ModelError: no config.json")
    monkeypatch.setattr(load_memory, "load_fresh", lambda *_: failed)
    with pytest.raises(RuntimeError, match=r"code 1:\nModelError: no config.json"):
        load_memory.measure("llava_nb", "original", tmp_path, SHAPE, limit=False)
