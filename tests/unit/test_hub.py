"""A hub id, from a hub of a few lines on 127.0.0.1 that serves the embedded model's files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from family_checkpoints import make_member
from PIL import Image
from small_hub import Hub

PARITY = Path(__file__).parents[1] / "data" / "parity"
CHOSEN = "llava-onevision-0.5b"


def test_a_hub_id_is_fetched_without_any_token(ask_hub):
    run = ask_hub(
        "from llava_nb import load, example_picture\n"
        "llava = load('somebody/small-llava')\n"
        "print(llava.name, llava.caption_image(example_picture())[1])"
    )
    assert run.stdout.startswith("somebody/small-llava From left to right"), run.stderr[-2000:]
    tokens = {token for _, token in Hub.asked}
    assert Hub.asked and tokens == {None}, tokens


def test_a_private_model_gets_the_token_given(ask_hub):
    ask_hub("from llava_nb import load; load('somebody/small-llava', token='hf_mine')")
    assert "Bearer hf_mine" in {token for _, token in Hub.asked}


def test_an_estimate_fetches_the_config_alone(ask_hub):
    run = ask_hub("import llava_nb; print(llava_nb.estimate_vram('somebody/small-llava').title)")
    assert run.stdout.startswith("somebody/small-llava in 4 bits"), run.stderr[-2000:]
    fetched = {path.rpartition("/")[2] for path, _ in Hub.asked if "/resolve/" in path}
    assert fetched == {"config.json"} and {token for _, token in Hub.asked} == {None}, Hub.asked


def test_an_id_that_the_hub_does_not_know(ask_hub):
    run = ask_hub("from llava_nb import load; load('somebody/no-such-llava')")
    assert "ModelError: somebody/no-such-llava could not be fetched" in run.stderr
    assert "Check the spelling and the network; a private model needs load(" in run.stderr


def test_without_a_gpu_a_photograph_goes_to_a_small_real_llava(ask_hub, tmp_path, monkeypatch):
    """Random here; on the hub it is LLaVA-OneVision 0.5B, in the same files."""
    make_member("llava-onevision", tmp_path / "published")
    name = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    monkeypatch.setattr(Hub, "repositories", {name: tmp_path / "published"})
    Image.effect_noise((300, 200), 90).save(tmp_path / "cat.png")
    run = ask_hub(f"from llava_nb.__main__ import main; main(['caption', '{tmp_path}/cat.png'])")
    assert f"llava_nb: Fetching 0.00 GiB for {CHOSEN}: there is no CUDA GPU; it is" in run.stderr
    assert "Here, on the CPU, a first word then takes about 0 s" in run.stderr, run.stderr[-2000:]
    assert f"model:    {CHOSEN} (not quantised): there is no CUDA GPU;" in run.stdout
    assert "caption:  " in run.stdout and {token for _, token in Hub.asked} == {None}


def test_a_hub_that_is_gone_leaves_the_embedded_model(ask_hub):
    report = "from llava_nb.__main__ import main; main(['report'])"
    run = ask_hub(report, HF_ENDPOINT="http://127.0.0.1:9")
    assert f"tiny: there is no CUDA GPU, and {CHOSEN}, which a CPU can run, cannot be" in run.stdout
    assert "had (127.0.0.1:9 cannot be reached)" in run.stdout, run.stdout


@pytest.fixture
def original_on_hub(tmp_path, monkeypatch):
    """A checkpoint in the authors' own layout, and its tower, with files nobody needs."""
    folders = {
        "somebody/original": PARITY / "llava-v1.5-tiny",
        "somebody/small-tower": PARITY / "tiny-clip-vit",
        "somebody/adapter": PARITY / "llava-v1.5-tiny",
    }
    places = {
        name: shutil.copytree(folder, tmp_path / "hub" / name) for name, folder in folders.items()
    }
    for name in ("somebody/original", "somebody/adapter"):
        config = json.loads((places[name] / "config.json").read_text())
        config["mm_vision_tower"] = "somebody/small-tower"
        (places[name] / "config.json").write_text(json.dumps(config))
        (places[name] / "training_args.bin").write_bytes(b"not needed")
    for file in places["somebody/adapter"].glob("pytorch_model*"):
        file.rename(file.with_name(file.name.replace("pytorch_model", "adapter_model")))
    (places["somebody/adapter"] / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(Hub, "repositories", places)


def fetched():
    """Names of the files that were downloaded, by repository."""
    paths = [path.split("?")[0] for path, _ in Hub.asked if "/resolve/" in path]
    return {(path.split("/")[2], path.rsplit("/")[-1]) for path in paths}


def test_the_original_layout_is_fetched_with_its_tower_and_nothing_else(ask_hub, original_on_hub):
    load = "from llava_nb import load, example_picture; llava = load('somebody/original'); "
    run = ask_hub(load + "print(llava.name, llava.ask(example_picture(), 'Hi').tokens > 0)")
    assert run.stdout == "somebody/original True\n", run.stderr[-2000:]
    assert re.search(r"\d+MB?\b", run.stderr), "no progress bar of a download, in a pipe"
    weights = {pair for pair in fetched() if pair[1].endswith((".bin", ".safetensors"))}
    shards = {("original", f"pytorch_model-0000{n}-of-00003.bin") for n in (1, 2, 3)}
    assert weights == shards | {("small-tower", "model.safetensors")}, weights
    assert {token for _, token in Hub.asked} == {None}
    again = ask_hub(load + "print(llava.name)", HF_HUB_OFFLINE="1")
    assert again.stdout == "somebody/original\n", again.stderr[-2000:]


def test_an_adapter_on_the_hub_is_recognised_before_any_weight(ask_hub, original_on_hub):
    run = ask_hub("from llava_nb import load; load('somebody/adapter')")
    assert "ModelError: somebody/adapter holds a LoRA adapter" in run.stderr, run.stderr[-2000:]
    assert not [name for _, name in fetched() if name.endswith(".bin")]


def test_too_little_disk_is_said_before_any_weight_is_fetched(ask_hub, original_on_hub):
    run = ask_hub(
        "from llava_nb import load\n"
        "from llava_nb.loading import fit\n"
        "fit.disk_free_bytes = lambda folder=None: 1000\n"
        "load('somebody/original')"
    )
    assert "DoesNotFitError: somebody/original does not fit: disk needed" in run.stderr
    assert "short by" in run.stderr and "check=False" in run.stderr, run.stderr[-2000:]
    assert not [name for _, name in fetched() if name.endswith((".bin", ".safetensors"))]
