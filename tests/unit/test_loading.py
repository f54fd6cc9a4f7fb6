"""load(): what it stores how, what it keeps, and for what cannot be loaded the repair."""

import importlib.util
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_lessons.tiny.build import build_processor
from llava_lessons.tiny.scenes import draw
from llava_lessons.tiny.train import save
from llava_nb import ModelError, check_gpu, load
from llava_nb.gpu import Gpu, GpuReport
from llava_nb.loading import load as loading
from llava_nb.loading.find import Checkpoint
from llava_nb.loading.weights import check_modules, settings


def linears(llava, kind):
    return {name for name, module in llava.model.named_modules() if type(module).__name__ == kind}


def language_linears(llava):
    names = (name for name, m in llava.model.named_modules() if isinstance(m, torch.nn.Linear))
    return {name for name in names if name.startswith("model.language_model.")}


def test_every_language_linear_is_4_bit_and_nothing_else(tiny):
    assert linears(tiny, "Linear4bit") == language_linears(tiny)
    assert len(language_linears(tiny)) == 7 * tiny.model.config.text_config.num_hidden_layers


def test_4_bit_means_nf4_with_double_quantisation():
    loading.release()  # a model that has answered is stored otherwise on some processors
    state = load("tiny").model.model.language_model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.nested, state.blocksize) == ("nf4", True, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_settings_leave_no_default_of_the_library(dtype):
    made = settings("4bit", dtype)
    assert (made.bnb_4bit_quant_type, made.bnb_4bit_use_double_quant) == ("nf4", True)
    assert made.bnb_4bit_compute_dtype == dtype and "lm_head" in made.llm_int8_skip_modules


@pytest.mark.parametrize(
    ("sees", "place"), [(True, ("cuda:0", torch.float16)), (False, ("cpu", torch.float32))]
)
def test_a_gpu_is_used_where_torch_can_use_it(sees, place):
    gpus, torches = (Gpu(0, "Tesla T4", (7, 5), 15, 14),), {"versions": {"torch": "2.13.0"}}
    torches |= {"torch_cuda": "12.8", "torch_sees_gpu": sees, "compute_dtype": "float16"}
    assert loading.device_and_dtype(GpuReport(gpus=gpus, **torches)) == place


def test_the_machine_is_looked_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(loading, "check_gpu", lambda **how: looks.append(how) or check_gpu(**how))
    load("auto")
    assert looks == [{"ask_torch": True}]


@pytest.mark.parametrize("quantization", ["8bit", None])
def test_8_bits_and_none_too(scene, caplog, quantization):
    llava = load("tiny", quantization=quantization)
    assert linears(llava, "Linear8bitLt") == (language_linears(llava) if quantization else set())
    assert not linears(llava, "Linear4bit") and llava.dtype == "float32"
    assert llava.ask(draw(scene), "How many shapes are there?").text == "Two."
    assert "will be cast" not in caplog.text, "a line for each token"


def test_a_model_is_kept_until_it_is_closed_changed_or_another_is_loaded(tiny_folder):
    first = load("tiny")
    assert load("tiny") is first
    first.close()
    again = load("tiny")
    other = load("tiny", quantization=None)
    assert again is not first and again.closed and not other.closed
    copy = load(tiny_folder)
    (tiny_folder / "note.txt").write_text("new")
    assert load(tiny_folder) is not copy


def test_auto_without_a_gpu_is_tiny_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    llava = load("auto")
    assert llava.name == "tiny" and "no CUDA GPU" in llava.reason, llava.reason
    assert load("auto") is llava


def test_no_token_is_looked_for(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a token was looked for")

    monkeypatch.setattr("huggingface_hub.get_token", refuse)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", refuse)
    monkeypatch.setattr(loading, "_loaded", {})
    assert not load("tiny").closed


def test_batches_are_padded_on_the_left_and_pictures_by_pil(tiny):
    pixels = tiny.processor.image_processor
    assert tiny.processor.tokenizer.padding_side == "left"
    assert "torchvision" not in type(pixels).__module__ and pixels.do_pad is True


def test_a_wide_picture_keeps_both_edges(tiny):
    picture = Image.new("RGB", (1000, 200), "white")
    picture.paste("red", (0, 0, 100, 200))
    picture.paste("blue", (900, 0, 1000, 200))
    pixels = tiny.processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
    middle = pixels[:, pixels.shape[1] // 2]
    assert middle[0, 2] > 1 and middle[2, -3] > 1, middle[:, [2, -3]]


def test_336_pixels_give_576_image_tokens(tmp_path):
    """In a random model of LLaVA-1.5's resolution, saved without the fields that copies lack."""
    tiny = load("tiny", quantization=None)
    raw = tiny.model.config.to_dict()
    raw["vision_config"] |= {"image_size": 336, "hidden_size": 32, "intermediate_size": 32}
    model = type(tiny.model)(type(tiny.model.config).from_dict(raw))
    save(model, build_processor(tiny.processor.tokenizer), tmp_path)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    old = {"image_processor_type": "CLIPImageProcessor", "size": 336, "crop_size": 336}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    llava, options = load(tmp_path), {"text": ["<image>\nHi"], "return_tensors": "pt"}
    inputs = llava.processor(images=[Image.new("RGB", (336, 336))], **options)
    count = (inputs["input_ids"] == llava.model.config.image_token_id).sum().item()
    assert count == 576 and llava.ask(Image.new("RGB", (40, 90)), "Hi", max_new_tokens=2).tokens


def test_a_4_bit_folder_saved_with_bare_names_answers_the_same(tmp_path, scene):
    question, picture = "Describe this picture.", draw(scene)
    llava = load("tiny")
    expected = llava.ask(picture, question).text
    llava.model.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match='stored in 4bit already: load.*quantization="4bit"'):
        load(tmp_path, quantization="8bit")
    config = json.loads((tmp_path / "config.json").read_text())
    bare = ["vision_tower", "multi_modal_projector", "lm_head"]
    config["quantization_config"]["llm_int8_skip_modules"] = bare
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load(tmp_path)
    assert again.ask(picture, question).text == expected
    assert linears(again, "Linear4bit") == language_linears(again)


def test_a_quantised_tower_is_noticed():
    tower = torch.nn.ModuleDict({"model": torch.nn.ModuleDict()})
    tower["model"]["vision_tower"] = load("tiny").model.model.language_model.layers[0].mlp
    with pytest.raises(ModelError, match="3 layers are not stored.*model.vision_tower.gate_proj"):
        check_modules(tower, "4bit")


def test_random_weights_are_never_let_through():
    checkpoint = Checkpoint("mine", "mine", "", True)
    report = {"missing_keys": ["model.vision_tower.x"], "unexpected_keys": ["y"]}
    message = r"1 missing \(model.vision_tower.x\); 1 unexpected \(y\). The model would answer at"
    with pytest.raises(ModelError, match=message):
        loading.check_loaded(checkpoint, report)


# What cannot be loaded.


@pytest.mark.parametrize(
    ("model", "quantization", "message"),
    [
        ("tiny", "4-bit", 'Did you mean "4bit"'),
        ("tiny", "int8", "8bit"),
        ("tiny", 4, '"4bit", "8bit" or None'),
        *((name, "4bit", 'Did you mean "llava-1.5-13b"') for name in ("llava-1.5-13", "llava13b")),
        ("LLaVA-1.5-13b-hf", "4bit", 'Did you mean "llava-1.5-13b"'),
        (13, "4bit", "takes a short name, a hub id or a folder, not int"),
        ("somebody/some-llava", "4bit", r'could not be fetched.*load\("tiny"\)'),  # no network
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(model, quantization, message):
    with pytest.raises(ModelError, match=message):
        load(model, quantization=quantization)


def test_bitsandbytes_missing(monkeypatch):
    real, missing = importlib.util.find_spec, {"bitsandbytes": None}
    find = lambda name: missing[name] if name in missing else real(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ModelError, match="Run: pip install bitsandbytes.*quantization=None"):
        load("tiny")


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "my-model").mkdir()
    (tmp_path / "file").touch()
    for name, message in [
        ("my-modle", "There is no folder .*my-modle. Did you mean .*my-model"),
        ("my-model", r"holds no config.json.*\(it holds: nothing\)"),
        ("file", "is a file, and load.. takes the folder"),
    ]:
        with pytest.raises(ModelError, match=message):
            load(tmp_path / name)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(name):
    return lambda folder: (folder / name).unlink()


def configure(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def weigh(change):
    def rewrite(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def lose_a_shard(folder):
    remove("model.safetensors")(folder)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / shards["a"]).touch()
    write("model.safetensors.index.json", json.dumps({"weight_map": shards}))(folder)


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def narrow(folder):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    configure(text_config={**text, "intermediate_size": 128})(folder)


BIAS, HEAD = "multi_modal_projector.linear_1.bias", "language_model.lm_head.weight"
UNREAD = "The files in .*copy cannot be read"
DAMAGES = [  # what is done to a copy of the embedded model, and what load() says then
    (remove("model.safetensors"), "has a config.json but no weights: expected model.safe"),
    (lose_a_shard, "lacks 1 of 2 weight files.*model-00002-of-00002"),
    *((write("model.safetensors.index.json", text), "index.json is damaged")
      for text in ("{", "[]", "{}")),
    (write("config.json", "{"), f"{UNREAD} .*Fetch them again"),
    (weigh(lambda weights: weights.pop(BIAS)), "1 missing .*linear_1.bias.*answer at random"),
    (weigh(lambda weights: weights.update(stray=weights[HEAD].clone())), r"1 unexpected \(stray\)"),
    (cut_weights, "weight file of copy is damaged or cut short.*again"),
    (narrow, "15 mismatched .*mlp.down_proj"),
    # A config with the authors' own keys is never read as transformers' own.
    (configure(mm_projector_type="mlp2x_gelu"), "names no vision tower"),
    (configure(model_type="bert"), "a model of type 'bert', and load.. reads LLaVA"),
    (configure(quantization_config={"quant_method": "gptq"}), "quantised with 'gptq'"),
    *((remove(name), UNREAD) for name in ("tokenizer.json", "processor_config.json")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[each[1] for each in DAMAGES])
def test_a_damaged_folder_is_refused_with_what_is_wrong(tiny_folder, damage, message):
    damage(tiny_folder)
    with pytest.raises(ModelError, match=message):
        load(tiny_folder, quantization=None if damage is narrow else "4bit")
