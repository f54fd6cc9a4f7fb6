"""Weight files opened without reading them, and every way in which one can be bad."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from llava_nb import DoesNotFitError, ModelError
from llava_nb.loading import weights

WEIGHTS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}


@pytest.fixture
def files(tmp_path):
    """The same weights as safetensors, as a zip .bin, and as torch wrote them before 1.6."""
    made = {name: tmp_path / name for name in ("new.safetensors", "zip.bin", "old.bin")}
    save_file(WEIGHTS, made["new.safetensors"])
    torch.save(WEIGHTS, made["zip.bin"])
    torch.save(WEIGHTS, made["old.bin"], _use_new_zipfile_serialization=False)
    return made


@pytest.mark.parametrize("name", ["new.safetensors", "zip.bin", "old.bin"])
def test_every_format_holds_the_same(name, files):
    opened = weights.open_weights([files[name]])
    assert opened.keys() == WEIGHTS.keys()
    assert all(torch.equal(value[:], WEIGHTS[key]) for key, value in opened.items())


def test_a_large_zip_shard_takes_no_memory_until_it_is_read(tmp_path):
    torch.save({"big": torch.ones(50_000_000)}, tmp_path / "big.bin")  # 200 MB
    before = anonymous_kib()
    opened = weights.open_weights([tmp_path / "big.bin"])
    taken = anonymous_kib() - before
    assert taken < 20_000 and opened["big"][7] == 1, f"{taken} KiB"


def anonymous_kib():
    """Memory of this process that belongs to no file."""
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        pytest.skip("this system does not tell a process's memory")
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_an_old_shard_larger_than_the_free_memory(files, monkeypatch):
    size = files["old.bin"].stat().st_size
    monkeypatch.setattr(weights, "ram_bytes", lambda: (2**34, 2**20))
    message = "old.bin is in the format of torch before 1.6.*1 such file.*0.00 GiB are free, short"
    with pytest.raises(DoesNotFitError, match=message):
        weights.open_weights([files["old.bin"]])
    assert size > 0 and weights.open_weights([files["zip.bin"]])


def test_an_old_shard_is_read_where_memory_is_unknown(files, monkeypatch):
    monkeypatch.setattr(weights, "ram_bytes", lambda: (None, None))
    assert torch.equal(weights.open_weights([files["old.bin"]])["a"], WEIGHTS["a"])


@pytest.mark.parametrize("name", ["new.safetensors", "zip.bin", "old.bin"])
def test_a_truncated_shard(name, files):
    whole = files[name].read_bytes()
    files[name].write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ModelError, match=f"{name} is damaged or cut short .*bytes. Delete it and"):
        weights.open_weights([files[name]])


def test_an_empty_shard(tmp_path):
    (tmp_path / "zip.bin").touch()
    with pytest.raises(ModelError, match="zip.bin is empty. Fetch it again"):
        weights.open_weights([tmp_path / "zip.bin"])


class Wicked:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_not_run(zipped, tmp_path):
    torch.save(
        {"a": Wicked(tmp_path / "ran")},
        tmp_path / "bad.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ModelError, match="wants to run code.*was not run.*Do not use files"):
        weights.open_weights([tmp_path / "bad.bin"])
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_that_wants_to_run_code_is_not_run(tmp_path):
    (tmp_path / "bad.bin").write_bytes(pickle.dumps({"a": Wicked(tmp_path / "ran")}))
    with pytest.raises(ModelError, match="bad.bin"):
        weights.open_weights([tmp_path / "bad.bin"])
    assert not (tmp_path / "ran").exists()


def test_something_else_than_tensors(tmp_path):
    torch.save({"epoch": 3, "state": {"a": torch.ones(2)}}, tmp_path / "training.bin")
    with pytest.raises(ModelError, match="holds something else than tensors by name"):
        weights.open_weights([tmp_path / "training.bin"])


def test_one_tensor_in_two_shards(files):
    with pytest.raises(
        ModelError, match="2 tensors that an earlier shard holds.*a. The folder mix"
    ):
        weights.open_weights([files["zip.bin"], files["new.safetensors"]])
