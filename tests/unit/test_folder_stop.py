"""Stopping in the middle: the batch in hand is finished, the result says so, nothing is lost."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from folder_fakes import FakeLlava, album

from llava_nb.errors import LlavaNbError
from llava_nb.folder import caption_folder
from llava_nb.folder.lock import only_one


@pytest.fixture
def folder(tmp_path):
    return album(tmp_path / "pictures")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "captions.csv"


def run(folder, output, llava=None, **options):
    options = {"progress": False, "batch_size": 2} | options
    return caption_folder(llava or FakeLlava(), folder, output, **options)


def at_batch(number, act):
    """A model in whose given batch something happens, the first time only."""
    llava = FakeLlava(before=lambda: len(llava.asked) == number and act())
    return llava


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_batch_in_hand_finish(folder, output, number):
    before = signal.getsignal(number)
    llava = at_batch(2, lambda: os.kill(os.getpid(), number))
    result = run(folder, output, llava)
    assert result.interrupted and result.signal == number.name
    assert (result.captioned, result.remaining, len(result.rows())) == (4, 6, 4)
    assert "Interrupted" in str(result) and "6 are still to be done" in str(result)
    assert signal.getsignal(number) is before, "the signal's handler is put back"
    again = run(folder, output)
    assert (again.kept, again.captioned, again.interrupted) == (4, 6, False)


def test_a_second_signal_does_not_wait(folder, output):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    result = run(folder, output, at_batch(2, twice))
    assert result.interrupted and (result.captioned, result.remaining) == (2, 8)


def test_an_interrupt_raised_by_others_is_a_stop_too(folder, output):
    def interrupt():
        raise KeyboardInterrupt

    result = run(folder, output, at_batch(3, interrupt))
    assert result.interrupted and result.captioned == 4


def test_stop_in_another_thread(folder, output):
    stop, results = threading.Event(), []
    llava = at_batch(1, stop.set)
    thread = threading.Thread(
        target=lambda: results.append(run(folder, output, llava, stop=stop)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert results[0].signal == "stop" and results[0].captioned == 2


def test_a_signal_in_the_last_batch_interrupts_nothing(folder, output):
    result = run(folder, output, at_batch(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert result.captioned == 10 and not result.interrupted


def test_parquet_is_there_after_an_interrupt(folder, tmp_path):
    pytest.importorskip("pyarrow")
    output = tmp_path / "captions.parquet"
    result = run(folder, output, at_batch(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert len(result.rows()) == 4 and sorted(os.listdir(tmp_path)) == [output.name, "pictures"]
    assert run(folder, output).kept == 4


def test_no_thread_is_left(folder, output):
    run(folder, output, at_batch(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    for thread in threading.enumerate():
        if thread.name == "llava_nb-reader":
            thread.join(10)
    assert "llava_nb-reader" not in [thread.name for thread in threading.enumerate()]


def test_two_runs_on_one_output_refuse_each_other(folder, output):
    def second():
        with pytest.raises(LlavaNbError, match=rf"Another run \(process {os.getpid()}\) is"):
            run(folder, output)
        run(folder, output.with_name("other.csv"))

    assert run(folder, output, at_batch(1, second)).captioned == 10
    assert sorted(os.listdir(output.parent)) == ["captions.csv", "other.csv", "pictures"]


HOLDS = """
import sys, time
from pathlib import Path
from llava_nb.folder.lock import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(output):
    """Another process that holds the lock of the output."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, output], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_in_another_process_is_named_and_a_killed_one_does_not_block(holder, folder, output):
    with pytest.raises(LlavaNbError, match=rf"process {holder.pid}.*give another output"):
        run(folder, output)
    holder.kill()
    holder.wait()
    assert output.with_name(".captions.csv.lock").exists(), "a killed process leaves its file"
    assert run(folder, output).captioned == 10


def test_where_there_are_no_locks_the_process_is_looked_for(holder, output, monkeypatch):
    monkeypatch.setattr("llava_nb.folder.lock.fcntl", None)
    with pytest.raises(LlavaNbError, match=f"process {holder.pid}"), only_one(output):
        pass
    holder.kill()
    holder.wait()
    with only_one(output):
        assert output.with_name(".captions.csv.lock").read_text() == str(os.getpid())
    assert os.listdir(output.parent) == []
