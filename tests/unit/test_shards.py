"""Weight files opened without reading them, and every way in which one can be bad."""

import pickle
import re
from pathlib import Path

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
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell a process's memory")
    memory = lambda: int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1])  # noqa: E731
    before = memory()
    opened = weights.open_weights([tmp_path / "big.bin"])
    taken = memory() - before
    assert taken < 20_000 and opened["big"][7] == 1, f"{taken} KiB"


def test_an_old_shard_is_read_where_memory_is_free_or_unknown(files, monkeypatch):
    monkeypatch.setattr(weights, "ram_bytes", lambda: (2**34, 2**20))
    message = "old.bin is in the format of torch before 1.6.*1 such file.*0.00 GiB are free, short"
    with pytest.raises(DoesNotFitError, match=message):
        weights.open_weights([files["old.bin"]])
    assert weights.open_weights([files["zip.bin"]])
    monkeypatch.setattr(weights, "ram_bytes", lambda: (None, None))
    assert torch.equal(weights.open_weights([files["old.bin"]])["a"], WEIGHTS["a"])


@pytest.mark.parametrize("name", ["new.safetensors", "zip.bin", "old.bin"])
def test_a_truncated_shard(name, files):
    whole = files[name].read_bytes()
    files[name].write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ModelError, match=f"{name} is damaged or cut short .*bytes. Delete it and"):
        weights.open_weights([files[name]])


class Wicked:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    ("form", "message"),
    [("zip", "wants to run code.*was not run.*Do not use files"),
     ("old", "wants to run code.*was not run.*Do not use files"), ("bare", "bad.bin")],
)  # fmt: skip
def test_a_pickle_that_wants_to_run_code_is_not_run(form, message, tmp_path):
    bad, wicked = tmp_path / "bad.bin", {"a": Wicked(tmp_path / "ran")}
    if form == "bare":
        bad.write_bytes(pickle.dumps(wicked))
    else:
        torch.save(wicked, bad, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match=message):
        weights.open_weights([bad])
    assert not (tmp_path / "ran").exists()


def test_what_is_no_whole_set_of_tensors(files, tmp_path):
    (tmp_path / "empty.bin").touch()
    torch.save({"epoch": 3, "state": {"a": torch.ones(2)}}, tmp_path / "training.bin")
    for paths, message in [
        ([tmp_path / "empty.bin"], "empty.bin is empty. Fetch it again"),
        ([tmp_path / "training.bin"], "holds something else than tensors by name"),
        ([files["zip.bin"], files["new.safetensors"]],
         "2 tensors that an earlier shard holds.*a. The folder mix"),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match=message):
            weights.open_weights(paths)
