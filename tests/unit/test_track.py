"""track_vram(): peaks of a GPU of a few lines, of the real RAM, nested, in a table and a figure."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest
import torch
from fake_cuda import FakeCuda, install
from matplotlib import pyplot

from llava_nb import LlavaNbError, VramLog, track_vram
from llava_nb.sizes import GIB
from llava_nb.vram import track as tracks
from llava_nb.vram.track import Track, peak_on

MB = 10**6
linux_only = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")


@pytest.fixture
def log():
    return VramLog()


def use(fake, size, gpu=0):
    """Take memory and give it back: a peak."""
    fake.allocate(size, gpu)
    fake.free(size, gpu)


def test_start_peak_and_end(cuda, log):
    use(cuda, 1000)  # before it: that does not count
    cuda.allocate(5)
    with track_vram("load", log) as track:
        use(cuda, 100)
        cuda.allocate(20)
    result = track.result
    assert (result.start_bytes, result.peak_bytes, result.end_bytes) == (5, 105, 25)
    assert (result.label, result.memory) == ("load", "VRAM") and list(log) == [result]


def test_trackers_within_one_another_keep_each_others_peaks(cuda, log):
    with track_vram("outer", log) as outer:
        use(cuda, 100)
        with track_vram("inner", log) as inner:
            use(cuda, 300)
        with track_vram("second", log) as second:
            use(cuda, 10)
        with peak_on(torch.device("cuda:0")) as peak, peak_on(torch.device("cpu")) as none:
            use(cuda, 40)
    peaks = (outer.peak_bytes, inner.peak_bytes, second.peak_bytes, peak.highest)
    assert peaks == (300, 300, 10, 40)
    assert [track.depth for track in log] == [1, 1, 0]
    assert (none.start, none.highest, none.end) == (None, None, None), "on a CPU there is no peak"


def test_trackers_that_overlap_each_see_their_own_time(cuda, log):
    with contextlib.ExitStack() as ends_first, contextlib.ExitStack() as ends_last:
        first = ends_first.enter_context(track_vram("first", log))
        use(cuda, 10)
        second = ends_last.enter_context(track_vram("second", log))
        use(cuda, 50)
        ends_first.close()
        use(cuda, 70)
        ends_last.close()
    assert (first.peak_bytes, second.peak_bytes) == (50, 70)


def test_two_gpus_count_together(monkeypatch, log):
    fake = install(monkeypatch, FakeCuda(gpus=2))
    with track_vram("both", log) as track:
        fake.allocate(3, gpu=0)
        use(fake, 100, gpu=1)
    assert (track.peak_bytes, track.end_bytes) == (103, 3)


def test_what_goes_wrong_inside_is_measured_and_passed_on(cuda, log):
    with pytest.raises(ZeroDivisionError), track_vram("fails", log) as track:
        cuda.allocate(7)
        _ = 1 / 0
    assert track.peak_bytes == 7
    with track_vram("after it", log) as after:
        pass
    assert after.depth == 0


def test_it_decorates_a_function(cuda, log):
    @track_vram("count down", log)
    def count_down(number):
        use(cuda, 10 * number)
        return count_down(number - 1) if number else "done"

    assert count_down(2) == "done"
    assert [track.peak_bytes for track in log] == [0, 10, 20]


def test_before_its_end_there_is_no_peak(cuda, log):
    with (
        track_vram("under way", log) as track,
        pytest.raises(AttributeError, match="peak_bytes: the stretch has not ended"),
    ):
        _ = track.peak_bytes
    assert "under way: " in str(track)


@linux_only
def test_without_a_gpu_it_is_the_ram_read_by_a_thread_that_ends(log):
    before = threading.active_count()
    with track_vram("block", log) as track:
        assert threading.active_count() == before + 1
        block = b"x" * (200 * MB)
        time.sleep(20 * tracks.INTERVAL_SECONDS)
        del block
    rise, left = track.peak_bytes - track.start_bytes, track.end_bytes - track.start_bytes
    assert threading.active_count() == before
    assert track.memory == "RAM" and rise > 180 * MB > left + 100 * MB, track.result
    assert "of RAM at the start" in str(track)


def test_where_the_ram_is_unknown_so_is_the_peak(log, monkeypatch):
    monkeypatch.setattr(tracks, "own_ram_bytes", lambda process: (None, None))
    with track_vram("unknown", log) as track:
        pass
    assert track.peak_bytes is None and "unknown of RAM at the start" in str(track)
    assert "unknown" in str(log) and log.plot().axes[0].get_title() == "Nothing tracked yet"


def test_a_tracker_goes_to_the_log_of_the_session(cuda):
    before = len(tracks.session_log)
    with track_vram("kept"):
        pass
    assert len(tracks.session_log) == before + 1 and tracks.session_log[-1].label == "kept"


def test_the_log_is_a_table_by_time_and_a_figure_with_a_box_as_high_as_each_peak(log):
    assert "with track_vram('load'): ..." in str(log)
    log.add(Track("ask", "VRAM", 4 * GIB, 5 * GIB, 4 * GIB, 12.0, 3.0, 1))
    log.add(Track("all of it", "VRAM", 0, 6 * GIB, 4 * GIB, 0.0, 20.0))
    assert str(log).splitlines() == [
        "VRAM               start        peak         end   seconds",
        "all of it       0.00 GiB    6.00 GiB    4.00 GiB      20.0",
        "  ask           4.00 GiB    5.00 GiB    4.00 GiB       3.0",
    ]
    axes = log.plot().axes[0]
    assert not pyplot.get_fignums()  # or it would be shown twice
    boxes = [(box.get_x(), box.get_width(), box.get_height()) for box in axes.patches]
    assert boxes == [(0.0, 20.0, 6.0), (12.0, 3.0, 5.0)]
    shown = [text.get_text().split("\n")[1].strip() for text in axes.texts]
    assert shown == ["6.00 GiB", "5.00 GiB"]


@pytest.mark.parametrize("label", [None, 3, b"load", print, ["load"]])
def test_a_label_that_is_no_text_is_refused(label):
    with pytest.raises(LlavaNbError, match=r'takes a label, not .*@track_vram\("load"\)'):
        track_vram(label)


@pytest.mark.parametrize("other", [[], "log", print])
def test_what_is_no_log_and_no_track_is_refused(other, log):
    with pytest.raises(LlavaNbError, match=r"log = VramLog\(\)"):
        track_vram("load", other)
    with pytest.raises(LlavaNbError, match="keeps what track_vram"):
        log.add(other)


@pytest.mark.parametrize("label", ["half \ud800", r"$\frac$", "two\nlines", "\x1b[31m", ""])
def test_any_label_can_be_printed_and_drawn(label, cuda, log):
    with track_vram(label, log):
        pass
    assert str(log).encode() and len(str(log).splitlines()) == 2
    log.plot().canvas.draw()
