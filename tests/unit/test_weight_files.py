"""The weight files of folders, and of hub ids from the hub of small_hub.py."""

from __future__ import annotations

import pytest
import torch
from small_hub import WEIGHTS, Hub
from transformers import LlavaForConditionalGeneration

from llava_nb.loading.find import weight_files

SAFE, BIN = "model.safetensors", "pytorch_model.bin"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BIN_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
STRAY = ("optimizer.pt", "training_args.bin", "mm_projector.bin", "tf_model.h5")
STRAY += ("flax_model.msgpack", "consolidated.safetensors", "model.fp16.safetensors")
LOOK = (
    "from llava_nb.loading.find import weight_files\n"
    "def look(hub_id='somebody/small-llava', **access):\n"
    "    found = weight_files(hub_id, is_folder=False, **access)\n"
    "    return found and (found.format, found.files, found.fetch_bytes)\n"
)


def make(folder, *names):
    """Files that hold 10 bytes, 20 bytes and so on; `files` of a look-up has the same pairs."""
    folder.mkdir(exist_ok=True)
    made = tuple((name, 10 * place) for place, name in enumerate(names, start=1))
    for name, size in made:
        (folder / name).write_bytes(bytes(size))
    return made


def serve(monkeypatch, folder):
    monkeypatch.setattr(Hub, "repositories", {"somebody/small-llava": folder})


def test_a_folder_with_a_single_file_or_the_shards_that_transformers_writes(tiny_folder, tmp_path):
    network = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float16)
    network.save_pretrained(tmp_path / "shards", max_shard_size="2MB")
    for folder, least in ((tiny_folder, 1), (tmp_path / "shards", 3)):
        found = weight_files(str(folder), is_folder=True)
        on_disk = {each.name: each.stat().st_size for each in folder.glob("*.safetensors")}
        assert found.files == tuple(sorted(on_disk.items())) and len(on_disk) >= least
        assert (found.format, found.fetch_bytes) == ("safetensors", 0)
        assert found.largest_bytes == max(on_disk.values())


@pytest.mark.parametrize(("single", "shards"), [(SAFE, SHARDS), (BIN, BIN_SHARDS)])
def test_a_folder_with_an_index(tmp_path, single, shards):
    made = make(tmp_path, *shards, *STRAY)
    named = ", ".join(f'"weight {name}": "{name}"' for name in shards)
    (tmp_path / f"{single}.index.json").write_text(f'{{"weight_map": {{{named}}}}}')
    found = weight_files(str(tmp_path), is_folder=True)
    assert (found.files, found.format) == (made[:2], single.rpartition(".")[2])


@pytest.mark.parametrize(("names", "taken"), [((SAFE, BIN), SAFE), ((BIN,), BIN)])
def test_a_folder_in_two_formats_is_read_as_safetensors(tmp_path, names, taken):
    make(tmp_path, *STRAY, *names)
    assert weight_files(str(tmp_path), is_folder=True).names == (taken,)


@pytest.mark.parametrize("index", [None, "{", "[]", "{}", f'{{"weight_map": {{"a": "{BIN}"}}}}'])
def test_a_folder_without_whole_weights_tells_nothing(tmp_path, index):
    make(tmp_path, *STRAY)
    if index is not None:
        (tmp_path / f"{BIN}.index.json").write_text(index)
    assert weight_files(str(tmp_path), is_folder=True) is None


@pytest.mark.parametrize("is_zip", [True, False])
def test_only_old_bin_files_are_read_whole(tmp_path, is_zip):
    tensors = {"weight": torch.zeros(100)}
    torch.save(tensors, tmp_path / BIN, _use_new_zipfile_serialization=is_zip)
    found = weight_files(str(tmp_path), is_folder=True)
    assert found.read_whole_bytes == (0 if is_zip else found.largest_bytes)


def test_a_hub_id_is_one_request_with_the_token_given_or_none(ask_hub):
    run = ask_hub(f"{LOOK}print(look())")
    size = (WEIGHTS / SAFE).stat().st_size
    assert run.stdout.strip() == str(("safetensors", ((SAFE, size),), size)), run.stderr[-2000:]
    assert Hub.asked == [("/api/models/somebody/small-llava?blobs=true", None)]
    ask_hub(f"{LOOK}look(token='hf_mine')")
    assert Hub.asked[1:] == [("/api/models/somebody/small-llava?blobs=true", "Bearer hf_mine")]


@pytest.mark.parametrize(
    ("names", "taken"),
    [((*SHARDS, *BIN_SHARDS), SHARDS), ((*BIN_SHARDS, *STRAY), BIN_SHARDS), ((BIN, SAFE), (SAFE,))],
)
def test_the_same_choice_on_the_hub(ask_hub, tmp_path, monkeypatch, names, taken):
    made = dict(make(tmp_path / "repository", *names))
    serve(monkeypatch, tmp_path / "repository")
    files = tuple((name, made[name]) for name in taken)
    expected = (taken[0].rpartition(".")[2], files, sum(size for _, size in files))
    run = ask_hub(f"{LOOK}print(look())")
    assert run.stdout.strip() == str(expected), run.stderr[-2000:]


def test_what_the_cache_holds_is_not_fetched_again(ask_hub, tmp_path, monkeypatch):
    made = make(tmp_path / "repository", *SHARDS)
    serve(monkeypatch, tmp_path / "repository")
    fetch = (
        f"{LOOK}from huggingface_hub import hf_hub_download\n"
        f"hf_hub_download('somebody/small-llava', '{SHARDS[0]}', token=False, cache_dir='CACHE')\n"
        "print(look(cache_dir='CACHE')[2], look(cache_dir='ANOTHER')[2])"
    ).replace("CACHE", str(tmp_path / "cache"))
    run = ask_hub(fetch)
    assert run.stdout.split() == [str(made[1][1]), str(made[0][1] + made[1][1])], run.stderr
    make(tmp_path / "repository", "README.md", *SHARDS)  # one place later: 20 and 30 bytes now
    run = ask_hub(f"{LOOK}print(look(cache_dir='{tmp_path / 'cache'}')[2])")
    assert run.stdout.split() == ["50"], run.stderr


def test_what_the_hub_does_not_have_or_tell_is_nothing(ask_hub, tmp_path, monkeypatch):
    look = f"{LOOK}print(look())"
    unknown = ask_hub(f"{LOOK}print(look('somebody/no-such-llava'))")
    assert unknown.stdout.strip() == "None" and len(Hub.asked) == 1
    assert ask_hub(look, HF_ENDPOINT="http://127.0.0.1:9").stdout.strip() == "None"
    assert ask_hub(look, HF_HUB_OFFLINE="1").stdout.strip() == "None" and len(Hub.asked) == 1
    make(tmp_path / "repository", *STRAY)
    serve(monkeypatch, tmp_path / "repository")
    assert ask_hub(look).stdout.strip() == "None"
