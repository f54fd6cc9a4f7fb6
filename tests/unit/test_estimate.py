"""estimate_vram(): against loaded models, against true shapes without memory, and as shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from live_tensors import LiveTensors
from test_preflight import LARGE, SEVEN, THIRTEEN, TINY, config_of
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_nb import ModelError, PromptError, catalog, estimate_vram, load, sizes
from llava_nb.gpu import Gpu, GpuReport
from llava_nb.loading import fit
from llava_nb.loading.load import release
from llava_nb.sizes import GIB, Work, activation_bytes, linear_bytes, tower_bytes, weights_by_part
from llava_nb.vram.report import bytes_by_part

ORIGINAL = Path(__file__).parents[1] / "data" / "parity" / "llava-v1.5-tiny"
BITS = pytest.mark.parametrize("quantization", ["4bit", "8bit", None])


def on_meta(model, layers=None):
    """The transformers model of a shape, without memory, in half precision."""
    config = config_of(model, num_hidden_layers=layers or model.shape.layers)
    with torch.device("meta"):
        return LlavaForConditionalGeneration(config).half().eval()


@LARGE
def test_parameters_are_those_of_the_true_shape_on_the_meta_device(model):
    count = sum(each.numel() for each in on_meta(model).parameters())
    assert sizes.parameters(model.shape) == count
    found = estimate_vram(model.name, quantization=None).weights_bytes
    assert found == pytest.approx(2 * count, rel=0.001), (found, count)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_matrix_of_true_size_takes_what_bitsandbytes_gives_it(quantization):
    rows = columns = THIRTEEN.shape.hidden
    matrix = torch.randn(rows, columns, dtype=torch.half)
    if quantization == "4bit":
        packed, state = functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
        inner = state.state2
        held = [packed, state.absmax, state.offset, state.code, inner.absmax, inner.code]
    else:
        held = functional.int8_vectorwise_quant(matrix)[:2]  # the numbers, a scale for each row
    found, expected = linear_bytes(rows, columns, quantization), sum(each.nbytes for each in held)
    assert found == pytest.approx(expected, rel=0.001), (found, expected)


@BITS
def test_weights_are_those_of_the_loaded_model_part_by_part(quantization):
    release()
    llava = load("tiny", quantization=quantization)
    held, found = bytes_by_part(llava.model), estimate_vram(llava)
    assert found.weights_bytes == pytest.approx(sum(held.values()), rel=0.01), (found, held)
    if quantization is None:
        assert {part: found.parts[part] for part in held} == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("model", catalog.known_models(), ids=lambda model: model.name)
@BITS
def test_parts_add_up_and_verdicts_go_by_the_same_number(model, quantization):
    parts = weights_by_part(model.shape, quantization)
    assert sum(parts.values()) == sizes.weights_bytes(model.shape, quantization)
    found = estimate_vram(model.name, quantization=quantization)
    assert found.needed_bytes == model.vram_bytes(quantization)
    assert found.needed_bytes - found.total_bytes == found.parts["kept free"] > 0


@pytest.mark.parametrize(
    ("model", "weights", "kv_mib", "below"), [(SEVEN, 4.21, 0.5, 6), (THIRTEEN, 7.33, 0.78125, 9.5)]
)
def test_the_figures_of_llava_in_4_bits(model, weights, kv_mib, below):
    found = estimate_vram(model.name)
    assert found.weights_bytes / GIB == pytest.approx(weights, abs=0.005)
    assert found.kv_bytes_per_token / 2**20 == kv_mib
    assert found.kv_bytes == (576 + 64 + 1024) * found.kv_bytes_per_token
    assert found.total_bytes / GIB < below


@pytest.fixture
def fused(monkeypatch):
    """Attention that makes nothing but its output, as fused kernels do."""
    sdpa = "scaled_dot_product_attention"
    monkeypatch.setattr(torch.nn.functional, sdpa, lambda query, *_, **__: torch.empty_like(query))


@LARGE
def test_a_prefill_takes_what_the_formula_says(model, fused):
    """transformers' own code at true widths."""
    network, layers, tokens, live = on_meta(model, layers=2), 2, 640, LiveTensors()
    with torch.inference_mode(), live:
        embedded = torch.empty(1, tokens, model.shape.hidden, dtype=torch.half, device="meta")
        network.model.language_model(inputs_embeds=embedded, use_cache=True)
    cache = tokens * sizes.kv_bytes_per_token(model.shape) * layers // model.shape.layers
    work = Work(images=0, prompt_tokens=tokens, new_tokens=1)
    expected = activation_bytes(model.shape, None, work)
    assert live.peak - cache == pytest.approx(expected, rel=0.03), (live.peak - cache, expected)


def test_a_tower_takes_what_the_formula_says(fused):
    network, live = on_meta(SEVEN, layers=1), LiveTensors()
    with torch.inference_mode(), live:
        pixels = torch.empty(2, 3, 336, 336, dtype=torch.half, device="meta")
        network.model.vision_tower(pixels, output_hidden_states=True)
    expected = tower_bytes(SEVEN.shape, Work(images=2))
    assert live.peak == pytest.approx(expected, rel=0.05), (live.peak, expected)


def test_4_bits_unpack_one_matrix():
    four, half = (activation_bytes(SEVEN.shape, each, Work()) for each in ("4bit", None))
    assert four - half == 2 * 4096 * 11008


def test_tokens_are_counted_by_picture_and_row_up_to_the_context():
    seven = {"model": "llava-1.5-7b"}
    one, four = (estimate_vram(**seven, batch_size=size) for size in (1, 4))
    assert (four.kv_bytes, four.tokens) == (4 * one.kv_bytes, 4 * one.tokens)
    assert four.weights_bytes == one.weights_bytes
    assert four.parts["activations"] > one.parts["activations"]
    tokens = [estimate_vram(**seven, images=count).tokens for count in (0, 1, 3)]
    assert tokens == [1088, 1664, 2816]
    long = estimate_vram(**seven, max_new_tokens=10**6)
    assert long.tokens == 4096 and long.work.new_tokens == 4096 - 640


def test_a_tied_head_takes_nothing():
    config = LlavaConfig.from_pretrained(TINY.folder)
    config.tie_word_embeddings = True
    shape = sizes.shape_of(config)
    assert weights_by_part(shape, None)["head"] == 0
    assert sizes.parameters(TINY.shape) - sizes.parameters(shape) == 1024 * 128


def test_a_short_name_needs_no_library():
    code = (
        "import sys, llava_nb; print(llava_nb.estimate_vram('llava-1.5-13b')); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_auto_is_what_load_would_take(monkeypatch):
    gpu = Gpu(0, "Tesla T4", (7, 5), 15 * GIB, 14 * GIB)
    report = GpuReport(gpus=(gpu,), versions={"torch": "2"}, torch_sees_gpu=True)
    monkeypatch.setattr(fit, "check_gpu", lambda ask_torch: report)
    assert estimate_vram("auto") == estimate_vram("llava-1.5-13b")


def test_a_folder_needs_its_config_alone(tmp_path):
    shutil.copy(TINY.folder / "config.json", tmp_path)
    assert estimate_vram(tmp_path).parts == estimate_vram("tiny").parts
    assert estimate_vram(str(tmp_path)).model == tmp_path.name


@BITS
def test_the_original_layout_is_counted_with_its_tower(quantization):
    release()
    held = bytes_by_part(load(ORIGINAL, quantization=None).model)
    found = estimate_vram(ORIGINAL, quantization=quantization)
    for part in ("vision tower", "embeddings", "head", "projector"):
        assert found.parts[part] == pytest.approx(held[part] / 2, rel=0.01), part


def write_config(source, folder, **changes):
    raw = json.loads((source / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(raw))


def test_the_original_layout_without_its_tower_counts_that_of_llava(tmp_path):
    write_config(ORIGINAL, tmp_path, mm_vision_tower="nobody/here", mm_hidden_size=1024)
    found = estimate_vram(tmp_path)
    assert found.parts["vision tower"] == weights_by_part(SEVEN.shape, "4bit")["vision tower"]
    assert found.work.new_tokens == 1024 and found.tokens == 576 + 64 + 1024


def test_weights_stored_in_8_bits_are_not_estimated_in_4(tmp_path):
    stored = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write_config(TINY.folder, tmp_path, quantization_config=stored)
    with pytest.raises(ModelError, match='stored in 8bit already: estimate.*quantization="8bit"'):
        estimate_vram(tmp_path)
    assert estimate_vram(tmp_path, quantization="8bit").quantization == "8bit"


def test_a_loaded_model_is_estimated_as_it_is_loaded_until_it_is_closed():
    release()
    llava = load("tiny", quantization=None)
    found = estimate_vram(llava, quantization="4bit")
    assert (found.quantization, found.memory) == (None, "RAM")
    assert found.kv_bytes_per_token == 2 * sizes.kv_bytes_per_token(TINY.shape)  # float32
    assert found.parts["CUDA context"] == 0 and "CUDA context" not in str(found)
    llava.close()
    with pytest.raises(ModelError, match="tiny has been closed"):
        estimate_vram(llava)


NUMBER = r"{} is {}; it is a whole number from {} on"


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        ("EMPTY", {}, ModelError, "holds no config.json"),
        ("llava-13b", {}, ModelError, 'Did you mean "llava-1.5-13b"'),
        (13, {}, ModelError, r'not int: estimate_vram\("llava-1.5-13b"\)'),
        ("tiny", {"quantization": "5bit"}, ModelError, "quantization='5bit' is not known"),
        ("tiny", {"images": -1}, PromptError, NUMBER.format("images", -1, 0)),
        ("tiny", {"prompt_tokens": 1.5}, PromptError, NUMBER.format("prompt_tokens", 1.5, 0)),
        ("tiny", {"max_new_tokens": 0}, PromptError, NUMBER.format("max_new_tokens", 0, 1)),
        ("tiny", {"batch_size": 0}, PromptError, NUMBER.format("batch_size", 0, 1)),
        ("llava-1.5-7b", {"images": 8}, PromptError, "8 picture.* of 576 tokens and 64 .* are "
         "4672 tokens, and .* holds 4096. Take 577"),
    ],
)  # fmt: skip
def test_what_cannot_be_estimated_says_why(tmp_path, model, options, kind, message):
    with pytest.raises(kind, match=message):
        estimate_vram(tmp_path if model == "EMPTY" else model, **options)


def test_the_text_is_a_table_in_gib():
    assert str(estimate_vram("llava-1.5-13b")).splitlines() == [
        "llava-1.5-13b in 4 bits: 1 picture, 64 tokens of question, 1024 of answer",
        "language model     6.10 GiB",
        "embeddings         0.31 GiB",
        "head               0.31 GiB",
        "vision tower       0.57 GiB",
        "projector          0.06 GiB",
        "---------------------------",
        "weights            7.33 GiB",
        "KV cache           1.27 GiB  1664 tokens; 0.76 GiB for 1,000",
        "activations        0.21 GiB  at the first token",
        "CUDA context       0.50 GiB  an allowance",
        "---------------------------",
        "in use             9.31 GiB  of VRAM",
        "kept free          0.88 GiB  an allowance",
        "needed            10.19 GiB  of VRAM",
    ]
    assert "language model   0.0005 GiB" in str(estimate_vram("tiny")), "small is not nothing"


@pytest.fixture
def page(monkeypatch):
    """page(model, quantization) beside a GPU of a name and size, or none."""

    def shown(model, quantization="4bit", gpu=None, gib=0):
        gpus = () if gpu is None else (Gpu(0, gpu, (8, 0), int(gib * GIB), None),)
        monkeypatch.setattr(fit, "check_gpu", lambda: GpuReport(gpus=gpus))
        return estimate_vram(model, quantization=quantization)._repr_html_()

    return shown


def test_the_bar_is_drawn_against_the_gpu_that_is_there_or_a_t4(page):
    t4 = "10.19 GiB needed, of the Tesla T4&#x27;s 14.56 GiB; this machine has no GPU"
    assert t4 in page("llava-1.5-13b") and "the end of" not in page("llava-1.5-13b")
    own = page("llava-1.5-13b", gpu="NVIDIA <A100>", gib=40)
    assert "of the NVIDIA &lt;A100&gt;&#x27;s 40.00 GiB." in own and "<A100>" not in own
    too_much = page("llava-1.5-13b", "8bit")
    needed = estimate_vram("llava-1.5-13b", quantization="8bit").needed_bytes
    assert f"more by {(needed - fit.T4_BYTES) / GIB:.2f} GiB than the Tesla T4" in too_much
    assert "the end of 14.56 GiB" in too_much


@pytest.mark.parametrize("quantization", ["4bit", None])  # below the T4's size, and above
def test_the_bar_is_as_wide_as_its_pieces(page, quantization):
    widths = re.findall(r"width: ([\d.]+)%", page("llava-1.5-13b", quantization))
    assert sum(map(float, widths)) == pytest.approx(100, abs=0.1), widths


def test_the_bar_is_told_to_whoever_cannot_see_it(page):
    label = re.search(r'role="img" aria-label="([^"]*)"', page("tiny"))[1]
    assert "language model 0.0005 GiB" in label and "14.56 GiB (Tesla T4)" in label
