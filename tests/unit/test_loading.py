"""load() on the real embedded model: what it stores how, and what it keeps."""

import json

import pytest
import torch
from PIL import Image

from llava_lessons.tiny.scenes import draw
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
    ("sees", "place"), [(True, ("cuda:0", "float16")), (False, ("cpu", "float32"))]
)
def test_a_gpu_is_used_where_torch_can_use_it(sees, place):
    report = GpuReport(
        gpus=(Gpu(0, "Tesla T4", (7, 5), 15, 14),),
        versions={"torch": "2.13.0"},
        torch_cuda="12.8",
        torch_sees_gpu=sees,
        compute_dtype="float16",
    )
    assert loading.device_and_dtype(report) == (place[0], getattr(torch, place[1]))


def test_the_machine_is_looked_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(loading, "check_gpu", lambda **how: looks.append(how) or check_gpu(**how))
    load("auto")
    assert looks == [{"ask_torch": True}]


def test_8_bit_too(scene):
    llava = load("tiny", quantization="8bit")
    assert linears(llava, "Linear8bitLt") == language_linears(llava)
    assert llava.ask(draw(scene), "How many shapes are there?").text == "Two."


def test_unquantised_too(scene):
    llava = load("tiny", quantization=None)
    assert not linears(llava, "Linear4bit") and llava.dtype == "float32"
    assert llava.ask(draw(scene), "How many shapes are there?").text == "Two."


def test_8_bit_adds_no_line_a_token(scene, caplog):
    load("tiny", quantization="8bit").ask(draw(scene), "Describe this picture.")
    assert "will be cast" not in caplog.text


def test_the_same_again_is_the_same_object():
    assert load("tiny") is load("tiny")


def test_another_model_releases_the_first():
    first = load("tiny")
    second = load("tiny", quantization=None)
    assert first.closed and not second.closed


def test_a_closed_model_is_loaded_anew():
    first = load("tiny")
    first.close()
    assert load("tiny") is not first


def test_a_folder_that_changed_is_loaded_anew(tiny_folder):
    first = load(tiny_folder)
    (tiny_folder / "note.txt").write_text("new")
    assert load(tiny_folder) is not first


def test_auto_without_a_gpu_is_tiny_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    llava = load("auto")
    assert llava.name == "tiny" and "no CUDA GPU" in llava.reason, llava.reason
    assert load("auto") is llava


def test_no_token_is_looked_for(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise AssertionError("a token was looked for")

    monkeypatch.setattr(huggingface_hub, "get_token", refuse)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", refuse)
    monkeypatch.setattr(loading, "_loaded", {})
    assert not load("tiny").closed


def test_batches_are_padded_on_the_left(tiny):
    assert tiny.processor.tokenizer.padding_side == "left"


def test_pictures_are_processed_by_pil_and_padded(tiny):
    pixels = tiny.processor.image_processor
    assert "torchvision" not in type(pixels).__module__ and pixels.do_pad is True


def test_a_wide_picture_keeps_both_edges(tiny):
    picture = Image.new("RGB", (1000, 200), "white")
    picture.paste("red", (0, 0, 100, 200))
    picture.paste("blue", (900, 0, 1000, 200))
    pixels = tiny.processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
    middle = pixels[:, pixels.shape[1] // 2]
    assert middle[0, 2] > 1 and middle[2, -3] > 1, middle[:, [2, -3]]


def test_336_pixels_give_576_image_tokens(tmp_path):
    llava = load(folder_at_336(tmp_path))
    inputs = llava.processor(
        images=[Image.new("RGB", (336, 336))], text=["<image>\nHi"], return_tensors="pt"
    )
    count = (inputs["input_ids"] == llava.model.config.image_token_id).sum().item()
    assert count == 576 and llava.ask(Image.new("RGB", (40, 90)), "Hi", max_new_tokens=2).tokens


def folder_at_336(folder):
    """A random model of LLaVA-1.5's resolution, saved without the fields that copies lack."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from llava_lessons.tiny.build import build_processor
    from llava_lessons.tiny.train import save

    tiny = load("tiny", quantization=None)
    raw = tiny.model.config.to_dict()
    raw["vision_config"] |= {"image_size": 336, "hidden_size": 32, "intermediate_size": 32}
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(raw))
    save(model, build_processor(tiny.processor.tokenizer), folder)
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    old = {"image_processor_type": "CLIPImageProcessor", "size": 336, "crop_size": 336}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    return folder


def test_a_4_bit_folder_saved_with_bare_names_answers_the_same(tmp_path, scene):
    question, picture = "Describe this picture.", draw(scene)
    llava = load("tiny")
    expected = llava.ask(picture, question).text
    llava.model.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    bare = ["vision_tower", "multi_modal_projector", "lm_head"]
    config["quantization_config"]["llm_int8_skip_modules"] = bare
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load(tmp_path)
    assert again.ask(picture, question).text == expected
    assert linears(again, "Linear4bit") == language_linears(again)


def test_stored_in_4_bits_and_asked_for_in_8(tmp_path):
    llava = load("tiny")
    llava.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match='stored in 4bit already: load.*quantization="4bit"'):
        load(tmp_path, quantization="8bit")


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
