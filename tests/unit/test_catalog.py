"""The catalog's sizes against published figures and real libraries; names; the choice."""

import pytest

from llava_nb import catalog, sizes
from llava_nb.errors import ModelError
from llava_nb.sizes import GIB

SEVEN, THIRTEEN, TINY = (catalog.find(name) for name in ("llava-1.5-7b", "llava-1.5-13b", "tiny"))


@pytest.mark.parametrize(
    ("model", "billions", "half", "nf4", "kv_mib"),
    [(SEVEN, 7.06, 13.16, 4.21, 0.5), (THIRTEEN, 13.35, 24.87, 7.33, 0.78125)],
    ids=lambda value: getattr(value, "name", None),
)
def test_sizes_agree_with_the_published_figures(model, billions, half, nf4, kv_mib):
    assert model.parameters / 1e9 == pytest.approx(billions, abs=0.005)
    assert model.weights_bytes[None] / GIB == pytest.approx(half, abs=0.005)
    assert model.weights_bytes["4bit"] / GIB == pytest.approx(nf4, abs=0.005)
    assert sizes.kv_bytes_per_token(model.shape) / 2**20 == kv_mib


def test_nf4_bytes_are_those_of_bitsandbytes():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    rows, columns = 192, 512
    packed, state = functional.quantize_4bit(
        torch.randn(rows, columns), quant_type="nf4", compress_statistics=True
    )
    held = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert sizes.linear_bytes(rows, columns, "4bit") == held


def test_vram_needs_are_about_six_gib_and_between_ten_and_eleven():
    assert 5.8 < SEVEN.needs_vram_bytes / GIB < 6.5, SEVEN.needs_vram_bytes
    assert 10 < THIRTEEN.needs_vram_bytes / GIB < 11, THIRTEEN.needs_vram_bytes


def test_vram_needs_leave_room_beside_weights_and_cache():
    for model in catalog.known_models():
        four, eight, half = (model.weights_bytes[each] for each in ("4bit", "8bit", None))
        assert four < eight < half, model.name
        for quantization, weights in model.weights_bytes.items():
            spare = model.vram_bytes(quantization) - weights
            assert spare > GIB // 2, (model.name, quantization, spare)


def test_only_the_embedded_model_needs_no_download():
    assert TINY.download_bytes == 0 and TINY.source == str(TINY.folder)
    assert SEVEN.download_bytes == SEVEN.weights_bytes[None]
    assert SEVEN.source == "llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize(
    "name",
    [
        "llava-1.5-13b",
        " LLaVA-1.5-13B ",
        "llava-hf/llava-1.5-13b-hf",
        # As pages write them, with other hyphens and wide letters.
        "llava\u20111.5\u201113b",
        "\uff4clava\u20131.5\u201313b",
    ],
)
def test_find_takes_short_names_and_hub_ids(name):
    assert catalog.find(name) is THIRTEEN


@pytest.mark.parametrize("name", ["4bit/llava-v1.5-13b-3GB", "liuhaotian/llava-v1.5-13b"])
def test_a_copy_in_the_original_layout_is_an_entry_of_its_own(name):
    copy = catalog.find(name.lower())
    assert (copy.name, copy.source, copy.shape) == (name, name, THIRTEEN.shape)
    assert copy not in catalog.known_models()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("llava-13b", "llava-1.5-13b"),
        ("7b", "llava-1.5-7b"),
        ("tinny", "tiny"),
        ("bakllava", "bakllava-v1"),
        ("onevision", "llava-onevision-7b"),
        ("vip", "vip-llava-7b"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ModelError, match=f'no model "{name}".*Did you mean "{nearest}"'):
        catalog.find(name)


def test_an_unknown_name_is_answered_with_all_there_are():
    with pytest.raises(ModelError, match="Short names: llava-1.5-13b, llava-1.5-7b, tiny") as info:
        catalog.find("zzz")
    assert "Did you mean" not in str(info.value)


@pytest.mark.parametrize("name", [None, 13, b"tiny", ["tiny"]])
def test_a_name_that_is_no_text_is_a_model_error(name):
    with pytest.raises(ModelError, match=f"is text, as .*, not {type(name).__name__}"):
        catalog.find(name)


@pytest.mark.parametrize("name", ["x" * 10**6, "half \ud800", "", "\x1b[31m"])
def test_any_text_is_answered_in_one_short_line_that_can_be_printed(name):
    with pytest.raises(ModelError) as info:
        catalog.find(name)
    assert len(str(info.value)) < 700 and str(info.value).encode() and str(info.value).isprintable()


def test_auto_chooses_among_llava_1_5_and_the_embedded_model():
    assert catalog.known_models() == (TINY, SEVEN, THIRTEEN)


def test_where_the_embedded_model_declines_a_line_names_a_real_one():
    line = catalog.about_declining("tiny", f" {catalog.DECLINED}\n")
    assert "knows drawings" in line and f'"{catalog.FOR_CPU.name}"' in line and "GiB" in line
    assert catalog.about_declining("tiny", "A large red circle.") == ""
    assert catalog.about_declining("llava-1.5-7b", catalog.DECLINED) == ""
