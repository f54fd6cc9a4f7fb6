"""The embedded model itself, its processor, and a short run of its training."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from llava_lessons.tiny import evaluate, language, packing
from llava_lessons.tiny.scenes import sample_scene
from llava_lessons.tiny.train import STAGES, Recipe, main, train
from llava_nb import load
from llava_nb.catalog import find

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "templates.json").read_text())


def test_it_is_small_and_built_as_llava_1_5_is(tiny):
    assert (find("tiny").folder / "model.safetensors").stat().st_size < 8e6
    assert tiny.model.config.vision_feature_layer == -2
    parts = (tiny.model, tiny.model.model.vision_tower, tiny.model.model.language_model)
    names = [type(part).__name__ for part in parts]
    assert names == ["LlavaForConditionalGeneration", "CLIPVisionModel", "LlamaModel"]


@pytest.mark.parametrize("text", ["Ünïcödé", "한국어", "日本語", "עברית", "🦙", "\x00", "a\tb\n"])
def test_the_tokenizer_takes_any_text_and_gives_it_back(tiny, text):
    tokenizer = tiny.processor.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize(("right", "code"), [(200, 0), (180, 1)])
def test_one_command_makes_the_table_of_its_card_and_judges_it(right, code, monkeypatch, capsys):
    row = {"right": right, "asked": 200, "mistakes": []}
    rows = dict.fromkeys(evaluate.KINDS, row)
    monkeypatch.setattr(evaluate, "measure", lambda *given, **options: rows)
    assert evaluate.main([]) == code
    text = capsys.readouterr().out
    shown = f"{right / 2:.1f}"
    assert f"| side | {' | '.join([shown] * 6)} |" in text and "new float32 | new NF4" in text
    assert f"| new: caption 1, NF4 | {shown} | 98 | {('met', 'MISSED')[code]} |" in text


@pytest.mark.parametrize("turns", ["one_turn", "two_turns"])
def test_its_chat_template_is_vicuna_v1(tiny, turns):
    first = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": first}]
    if turns == "two_turns":
        messages.append({"role": "assistant", "content": [{"type": "text", "text": "A cat."}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": "What colour?"}]})
    prompt = tiny.processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == RECORDED["vicuna_v1"][turns]


@pytest.mark.parametrize(
    ("kind", "floor"), [("caption 1", 0.9), ("caption 2", 0.8), ("colour", 0.9)]
)
def test_it_answers_rightly_about_scenes_it_never_saw(tiny, kind, floor):
    row = evaluate.measure(tiny.model, tiny.processor, "new", kinds=[kind], count=40)[kind]
    assert row["right"] / row["asked"] >= floor, row


def test_it_says_so_when_it_cannot_tell(tiny, picture):
    answer = tiny.ask(picture, "What is the capital of France?")
    assert answer.text == "I cannot tell from this picture."


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def unrounded(request):
    """The model as it was trained, with one of the two kinds of attention."""
    llava = load("tiny", quantization=None)
    llava.model.set_attn_implementation(request.param)
    yield llava
    llava.close()  # with the attention that it was given here


def test_a_packed_row_sees_what_a_single_question_sees(unrounded, monkeypatch):
    monkeypatch.setattr(packing, "HIDDEN_WORDS", 0)
    encoder = packing.Encoder(unrounded.processor.tokenizer)
    scene = sample_scene(Random(1), count=2)
    packed = packing.pack(Random(2), encoder, [scene], seeing=True)
    last = packing.conversations(Random(2), scene)[-1]
    monkeypatch.setattr(packing, "conversations", lambda random, scene, weights: [last])
    alone = packing.pack(Random(2), encoder, [scene], seeing=True)
    prefix = len(encoder.before) + 64  # what stands before the first question
    packed.weights[:, : prefix - alone.ids.shape[1]] = 0  # only the last conversation counts
    losses = [language.answer_loss(unrounded.model, batch).item() for batch in (alone, packed)]
    assert abs(losses[0] - losses[1]) < 1e-3, losses


def test_no_token_sees_what_comes_after_it(unrounded, monkeypatch):
    """If one did, training would go well and the model would answer nonsense."""
    monkeypatch.setattr(packing, "HIDDEN_WORDS", 0)
    encoder = packing.Encoder(unrounded.processor.tokenizer)
    batch = packing.pack(Random(2), encoder, [sample_scene(Random(1), count=2)], seeing=True)
    early = batch.ids.shape[1] * 3 // 4
    batch.weights[:, early:] = 0
    before = language.answer_loss(unrounded.model, batch).item()
    batch.ids[:, early:] = 7
    after = language.answer_loss(unrounded.model, batch).item()
    assert abs(before - after) < 1e-4, (before, after)


@pytest.fixture
def few_texts(monkeypatch):
    """A tokenizer trained on little, in a second."""
    texts = packing.sample_texts(scenes=60)
    monkeypatch.setattr("llava_lessons.tiny.train.sample_texts", lambda: texts)


@pytest.mark.parametrize("precision", [[], ["--bfloat16"]], ids=["float32", "bfloat16"])
def test_a_short_training_run_learns_and_can_be_loaded(precision, tmp_path, few_texts, capsys):
    steps = "--tower 2 --speak 2 --align 1 --tune 1 --polish 1 --spare 1"
    batches = ["--tower-batch", "4", "--language-batch", "4"]
    main([str(tmp_path), *steps.split(), *batches, *precision])
    report = capsys.readouterr().out
    assert not [stage for stage in STAGES if f"{stage}:" not in report], report
    assert load(tmp_path).ask(None, "Hi", max_new_tokens=2).tokens > 0


def test_alignment_changes_the_projector_alone(few_texts):
    none = Recipe(**dict.fromkeys(STAGES, 0), language_batch=2)
    before, _ = train(none)
    after, _ = train(replace(none, align=1))
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    changed = {name for (name, one), other in pairs if not torch.equal(one, other)}
    assert {name.split(".")[1] for name in changed} == {"multi_modal_projector"}
