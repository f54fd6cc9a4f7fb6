"""What the tokenizer is made to read gives the ids that the original LLaVA code got."""

import json
from pathlib import Path

import pytest

from llava_nb import ModelError
from llava_nb.processor import Spelling, build_tokenizer, read_spelling
from llava_nb.prompts import IMAGE_TOKEN

PARITY = Path(__file__).parents[1] / "data" / "parity"
RECORDED = json.loads((PARITY / "golden" / "tokenization.json").read_text())
TEMPLATES = json.loads((PARITY.parent / "templates.json").read_text())
IMAGE = -200  # what the original writes for a picture


def tokens_of(name):
    raw = json.loads((PARITY / name / "config.json").read_text())
    spelling = read_spelling(PARITY / name, raw, name)
    return spelling, build_tokenizer(PARITY / name, spelling)


def ids(spelling, tokenizer, text):
    found = tokenizer(spelling.for_tokenizer(text))["input_ids"]
    return [IMAGE if each == tokenizer.unk_token_id else each for each in found]


@pytest.mark.parametrize("turns", ["one_turn", "two_turns"])
@pytest.mark.parametrize("name", RECORDED)
def test_every_template_has_the_recorded_ids(name, turns):
    recorded = RECORDED[name][f"templates_{turns}"]
    found = {style: ids(*tokens_of(name), TEMPLATES[style][turns]) for style in recorded}
    assert len(found) >= 14 and found == recorded


@pytest.mark.parametrize("name", RECORDED)
def test_every_tricky_string_has_the_recorded_ids(name):
    spelling, tokenizer = tokens_of(name)
    # A literal <unk> is left out on purpose: the model would take it for a picture.
    strings = [each for each in RECORDED[name]["strings"] if "<unk>" not in each["text"]]
    made = {each["text"]: ids(spelling, tokenizer, each["text"]) for each in strings}
    wrong = [each for each in strings if made[each["text"]] != each["tokenizer_image_token"]]
    assert len(strings) >= 20 and not wrong, wrong


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "text",
    ["<image>\nWhat?", "Before <image> after", "Two <image><image>of them", " <image> ",
     "<im_start><image><im_end>\nWhat?", "One.</s>USER: <image>\nTwo?"],
)  # fmt: skip
def test_one_text_has_the_ids_of_its_pieces(legacy, text):
    """The original tokenizes piece by piece; the whole text must come to the same."""
    folder = PARITY / "llava-v1-tiny-linear"  # with <im_start> and <im_end> as tokens
    spelling = Spelling(legacy=legacy, special=("<s>", "</s>", "<im_start>", "<im_end>"))
    tokenizer = build_tokenizer(folder, spelling)
    expected = [tokenizer.bos_token_id]
    for number, piece in enumerate(text.split(IMAGE_TOKEN)):
        blank = " " if piece.startswith(" ") else ""  # Llama's own sets a second one there
        part = tokenizer(blank + piece, add_special_tokens=False)["input_ids"]
        expected += [IMAGE] * (number > 0) + part
    assert ids(spelling, tokenizer, text) == expected


def test_padding_and_a_written_unk_are_no_pictures():
    assert Spelling().for_tokenizer("a <unk> b") == "a  b"
    spelling, tokenizer = tokens_of("llava-v1.5-tiny")
    assert tokenizer.pad_token_id != tokenizer.unk_token_id == 0
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize(
    ("name", "raw", "style"),
    [
        ("liuhaotian/llava-v1.5-13b", {}, "vicuna_v1"),
        ("liuhaotian/llava-llama-2-13b-chat-lightning-preview", {}, "llava_llama_2"),
        ("mine", {}, "vicuna_v1"),
        ("a copy", {"_name_or_path": "llava-llama-2-7b-chat"}, "llava_llama_2"),
    ],
)
def test_the_name_tells_the_conversation(tmp_path, name, raw, style):
    """A copied folder tells by what it was called."""
    assert read_spelling(tmp_path, raw, name).style == style


@pytest.mark.parametrize(
    ("damaged", "said"),
    [(False, "tokenizer in .* cannot be read.*fetch it again"),
     (True, "tokenizer.model .* is missing or damaged")],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path, damaged, said):
    if damaged:
        (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ModelError, match=said):
        build_tokenizer(tmp_path, Spelling())
