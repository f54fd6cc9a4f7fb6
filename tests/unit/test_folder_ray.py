"""engine="ray": the same rows from several workers, and what a worker's death costs.

The logic is tested with a few lines in place of Ray Data; the last tests start a real local Ray,
where there is one.
"""

import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
from folder_fakes import FakeLlava, album, names

from llava_nb.errors import LlavaNbError, ModelError
from llava_nb.folder import caption_folder
from llava_nb.folder import ray as folder_ray

ROOT = Path(__file__).parents[2]
ray_folders = Path(__file__).with_name("ray_folders.py")


class FakeData:
    """Ray Data in this process: one worker, blocks in turn; some blocks never come back."""

    def __init__(self, lost=()):
        self.lost, self.context = lost, SimpleNamespace()
        self.context.enable_progress_bars, self.context.max_errored_blocks = True, 0
        self.DataContext = SimpleNamespace(get_current=lambda: self.context)
        self.ActorPoolStrategy = SimpleNamespace

    def from_items(self, items, override_num_blocks):
        self.blocks = numpy.array_split([each["place"] for each in items], override_num_blocks)
        return self

    def map_batches(self, make, *, fn_constructor_kwargs, **options):
        self.worker, self.options = make(**fn_constructor_kwargs), options
        return self

    def iter_batches(self, **_):
        for number, block in enumerate(self.blocks):
            if number not in self.lost:
                rows = self.worker({"place": block})
                yield {name: numpy.array(values, dtype=object) for name, values in rows.items()}


@pytest.fixture
def spread(monkeypatch, tmp_path):
    """Caption ten pictures with the fake Ray; `data` tells what it was asked for."""
    folder, llava = album(tmp_path / "pictures"), FakeLlava()
    llava.quantization = None
    monkeypatch.setattr("llava_nb.loading.load", lambda *_, **__: llava)

    def run(data=None, output="captions.csv", cluster=None, **options):
        data = data or FakeData()
        ray = SimpleNamespace(data=data, cluster_resources=lambda: cluster or {"CPU": 4.0})
        monkeypatch.setattr(folder_ray, "start_ray", lambda: ray)
        options = {"batch_size": 2, "engine": "ray", "progress": False} | options
        return caption_folder(llava, folder, tmp_path / output, **options)

    return run


def test_the_rows_are_those_of_one_model(spread):
    assert spread().rows() == spread(output="local.csv", engine="local").rows()


def test_rows_that_come_in_any_order_are_put_in_order(spread):
    data = FakeData()
    real = data.from_items
    data.from_items = lambda *given, **more: (
        real(*given, **more) and setattr(data, "blocks", data.blocks[::-1]) or data
    )
    result = spread(data)
    lines = result.output.read_text("utf-8-sig").splitlines()[1:]
    assert (
        [line.split(",")[0] for line in lines]
        == names(result.rows())
        == sorted(names(result.rows()))
    )


def test_a_batch_that_never_comes_back_is_failed_rows_and_is_done_the_next_time(spread):
    result = spread(FakeData(lost=[1]))
    failed = [row for row in result.rows() if row.failed]
    assert names(failed) == ["002.png", "003.png"] and result.captioned == 8
    assert "The worker died on the batch of this picture, 2 times" in failed[0].error
    assert (spread().captioned, spread().kept) == (2, 10)


def test_a_worker_that_cannot_go_on_ends_the_run(spread, monkeypatch):
    def closed(*_, **__):
        raise ModelError("tiny has been closed")

    monkeypatch.setattr(FakeLlava, "ask_batch", closed)
    with pytest.raises(ModelError, match="A worker of Ray cannot go on. ModelError: tiny has been"):
        spread()


def test_a_stop_ends_it_after_the_batch_in_hand(spread):
    stop = threading.Event()
    data = FakeData()
    stop.is_set = lambda: hasattr(data, "worker") and len(data.worker._llava.asked) >= 2
    result = spread(data, stop=stop)
    assert result.interrupted and result.captioned == 4


def test_ray_is_asked_for_one_model_a_gpu_or_else_a_processor(spread):
    data = FakeData()
    spread(data, cluster={"CPU": 8.0, "GPU": 2.0})
    assert data.options["num_gpus"] == 1 and data.options["compute"].size == 2
    assert data.options["max_task_retries"] == 1, "a batch is done again once"
    assert folder_ray.resources({"CPU": 8.0}, None) == ({"num_cpus": 1}, 8)
    assert folder_ray.resources({"CPU": 8.0}, 3) == ({"num_cpus": 1}, 3)


def test_its_settings_of_ray_data_are_put_back(spread):
    data = FakeData()
    spread(data)
    assert (data.context.enable_progress_bars, data.context.max_errored_blocks) == (True, 0)


@pytest.mark.parametrize("workers", [0, 5])
def test_more_workers_than_there_is_room_for(spread, workers):
    with pytest.raises(LlavaNbError, match=rf"workers is {workers}, and Ray has 4 CPU.*1 to 4"):
        spread(workers=workers)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(LlavaNbError, match=r'pip install "ray\[data\]".*engine="local"'):
        caption_folder(FakeLlava(), album(tmp_path / "p"), tmp_path / "c.csv", engine="ray")


@pytest.mark.skipif(find_spec("ray") is None, reason='needs Ray: pip install "ray[data]"')
def test_a_real_ray_makes_the_same_rows_also_when_a_worker_dies(tmp_path):
    command = [sys.executable, "-W", "ignore", ray_folders, tmp_path / "here", "--pictures", "48"]
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])  # which keeps it off the network
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if "The current node timed out during startup" in done.stderr:
        pytest.skip("Ray could not start: the machine is too busy")
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray prints too
    report = json.loads(line)
    assert report["same"], "two workers say what one model says"
    assert len(report["killed"]) == 1, "a worker was killed in the middle"
    assert report["after_death"] == {"rows": 48, "failed": 0} and report["same_after_death"]
