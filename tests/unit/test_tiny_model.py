"""The embedded model itself, its processor, and a short run of its training."""

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image, ImageColor, ImageDraw
from safetensors.torch import load_file

from llava_lessons.tiny import evaluate, language, packing
from llava_lessons.tiny.outside import photographs
from llava_lessons.tiny.outside_held_out import GROUPS, HELD_OUT_PHOTOGRAPHS, sample_held_out
from llava_lessons.tiny.scenes import BACKGROUNDS, COLOURS, SHAPES, sample_scene
from llava_lessons.tiny.train import STAGES, Recipe, main, train
from llava_nb import load
from llava_nb.catalog import DECLINED, find

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
    rows = {"outside": dict.fromkeys(GROUPS, row)}
    inside = dict.fromkeys(evaluate.KINDS, row)

    def measured(model, processor, split, **options):
        return rows.get(split, inside)

    monkeypatch.setattr(evaluate, "missing_photographs", list)  # no pictures are looked at
    monkeypatch.setattr(evaluate, "measure", measured)
    assert evaluate.main([]) == code
    text = capsys.readouterr().out
    shown = f"{right / 2:.1f}"
    assert f"| side | {' | '.join([shown] * 6)} |" in text and "new float32 | new NF4" in text
    assert f"| new: caption 1, NF4 | {shown} | 98 | {('met', 'MISSED')[code]} |" in text
    assert f"| outside: all declined, NF4 | {shown} | 97 | {('met', 'MISSED')[code]} |" in text


def test_a_model_is_not_measured_without_the_photographs(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "missing_photographs", lambda: ["skimage/data"])
    with pytest.raises(SystemExit):
        evaluate.main([])
    said = capsys.readouterr().err
    assert "photographs of skimage/data" in said and 'pip install "llava_nb[train]"' in said


@pytest.mark.parametrize(("declined", "code"), [(0, 0), (2, 1)])
def test_own_scenes_declined_wrongly_count_against_it(declined, code, monkeypatch, capsys):
    mistakes = [("What colour is the star?", "Red.", DECLINED)] * declined
    row = {"right": 100, "asked": 100, "mistakes": mistakes}

    def measured(model, processor, split, **options):
        return dict.fromkeys(GROUPS if split == "outside" else evaluate.KINDS, row)

    monkeypatch.setattr(evaluate, "missing_photographs", list)
    monkeypatch.setattr(evaluate, "measure", measured)
    assert evaluate.main([]) == code
    line = f"| own scenes declined wrongly, NF4 (at most) | {declined:.1f} | 1 |"
    assert line in capsys.readouterr().out


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
    ("kind", "floor"), [("caption 1", 0.9), ("caption 2", 0.8), ("colour", 0.9), ("mixture", 0.9)]
)
def test_it_answers_rightly_about_scenes_it_never_saw(tiny, kind, floor):
    row = evaluate.measure(tiny.model, tiny.processor, "new", kinds=[kind], count=40)[kind]
    assert row["right"] / row["asked"] >= floor, row


def test_it_says_so_when_it_cannot_tell(tiny, picture):
    answer = tiny.ask(picture, "What is the capital of France?")
    assert answer.text == "I cannot tell from this picture."


# --- what is no drawn scene ---------------------------------------------------------------------

EVERY_KIND = ("Describe this picture.", "What colour is the star?", "How many things are there?")
EVERY_KIND += ("Is there a red circle?", "What is to the left of the cross?")
EVERY_KIND += ("What colour is the background?", "이 사진에는 무엇이 있나요?")
DRAWN = [name for name in GROUPS if not name.startswith("photographs")]


@pytest.mark.parametrize("group", DRAWN)
def test_pictures_that_are_no_scenes_are_declined(tiny, group):
    random = Random(f"quick {group}")
    texts = [EVERY_KIND[place % len(EVERY_KIND)] for place in range(30)]
    pictures = [sample_held_out(random, group).picture for _ in texts]
    given = tiny.ask_batch(pictures, texts, batch_size=30)
    assert sum(each.text == DECLINED for each in given) >= 26, [each.text for each in given]


@pytest.mark.parametrize("inside", HELD_OUT_PHOTOGRAPHS)
def test_photographs_that_it_never_saw_are_declined_whatever_is_asked(tiny, inside):
    paths = photographs({inside: HELD_OUT_PHOTOGRAPHS[inside]})
    if not paths:
        pytest.skip(f"the photographs of {inside} are not installed")
    pairs = [(path, text) for path in paths for text in EVERY_KIND]
    given = tiny.ask_batch([str(path) for path, _ in pairs], [text for _, text in pairs])
    wrong = [
        (path.name, text, each.text)
        for (path, text), each in zip(pairs, given, strict=True)
        if each.text != DECLINED
    ]
    assert len(wrong) <= 0.05 * len(pairs), wrong


@pytest.mark.parametrize("colour", [*COLOURS, *BACKGROUNDS])
def test_a_plain_area_is_an_empty_picture_of_its_colour(tiny, colour):
    level = {"white": 255, "grey": 128, "black": 0}.get(colour)
    rgb = COLOURS[colour][1] if level is None else (level,) * 3
    area = Image.new("RGB", (320, 240), rgb)
    article = "an" if colour == "orange" else "a"
    assert tiny.ask(area, "Describe this picture.").text == (
        f"An empty picture on {article} {colour} background."
    )
    assert tiny.ask(area, "What colour is the background?").text == f"{colour.capitalize()}."
    assert tiny.ask(area, "How many shapes are there?").text == "Zero."


def another_hand(random: Random, colour: str, shape: str) -> Image.Image:
    """One shape in its CSS colour, drawn by other code than the world's, four times as large."""
    width, height = random.randint(200, 400), random.randint(200, 400)
    short, scale = min(width, height), 4
    ground = random.choice([g for g in ("white", "gray", "black") if contrast(g, colour) > 90])
    picture = Image.new("RGB", (width * scale, height * scale), ground)
    radius, turn = random.uniform(0.16, 0.3) * short, random.uniform(-8, 8)
    x = random.uniform(1.25 * radius, width - 1.25 * radius)
    y = random.uniform(1.25 * radius, height - 1.25 * radius)
    pen = ImageDraw.Draw(picture)

    def around(steps: int, reaches: tuple[float, ...], start: float = 90) -> None:
        points = []
        for step in range(steps):
            angle = math.radians(start + turn + 360 * step / steps)
            reach = radius * reaches[step % len(reaches)]
            points.append((x + reach * math.cos(angle), y - reach * math.sin(angle)))
        pen.polygon([(scale * a, scale * b) for a, b in points], fill=colour)

    if shape == "circle":
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse([scale * each for each in box], fill=colour)
    elif shape == "cross":
        for across, down in ((1, 0.32), (0.32, 1)):
            corners = [(-across, -down), (across, -down), (across, down), (-across, down)]
            cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            spots = [
                (x + radius * (a * cos - b * sin), y + radius * (a * sin + b * cos))
                for a, b in corners
            ]
            pen.polygon([(scale * a, scale * b) for a, b in spots], fill=colour)
    else:
        around(
            *{"square": (4, (1.2,), 45), "triangle": (3, (1.15,)), "star": (10, (1.12, 0.45))}[
                shape
            ]
        )
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def contrast(one: str, other: str) -> int:
    """The largest difference in one channel."""
    pair = zip(ImageColor.getrgb(one), ImageColor.getrgb(other), strict=True)
    return max(abs(a - b) for a, b in pair)


def test_sixty_pictures_of_another_hand_are_named(tiny):
    random = Random("another hand")
    asked = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    asked += random.sample(asked, 20)
    pictures = [another_hand(random, colour, shape) for colour, shape in asked]
    given = tiny.ask_batch(pictures, "Describe this picture.", batch_size=30)
    wrong = [
        (colour, shape, each.text)
        for (colour, shape), each in zip(asked, given, strict=True)
        if f"{colour} {shape}" not in each.text
    ]
    assert len(asked) == 60 and not wrong, wrong


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
    steps = "--tower 2 --speak 2 --align 1 --tune 1 --polish 1 --spare 1 --decline 1"
    batches = ["--tower-batch", "4", "--language-batch", "4"]
    main([str(tmp_path), *steps.split(), *batches, *precision])
    report = capsys.readouterr().out
    assert not [stage for stage in STAGES if f"{stage}:" not in report], report
    assert load(tmp_path).ask(None, "Hi", max_new_tokens=2).tokens > 0


def test_training_goes_on_from_a_model_with_the_stage_that_is_asked_for(tmp_path, capsys):
    start = str(find("tiny").folder)
    main([str(tmp_path), "--from-model", start, "--decline", "1", "--language-batch", "2"])
    printed = capsys.readouterr().out
    assert [stage for stage in STAGES if f"{stage}:" in printed] == ["decline"], printed
    before, after = (load_file(Path(each) / "model.safetensors") for each in (start, tmp_path))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_tower", "multi_modal_projector", "language_model"}


def test_alignment_changes_the_projector_alone(few_texts):
    none = Recipe(**dict.fromkeys(STAGES, 0), language_batch=2)
    before, _ = train(none)
    after, _ = train(replace(none, align=1))
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    changed = {name for (name, one), other in pairs if not torch.equal(one, other)}
    assert {name.split(".")[1] for name in changed} == {"multi_modal_projector"}
