"""The drawn world: what is drawn, what is kept out of training, and that answers are true."""

from dataclasses import replace
from random import Random

import numpy
import pytest
import torch

from llava_lessons.tiny import outside, outside_held_out, phrasings, unanswerable
from llava_lessons.tiny.build import SIDE, build_tokenizer
from llava_lessons.tiny.language import without
from llava_lessons.tiny.packing import Encoder, conversations, pack, put_questions, sample_texts
from llava_lessons.tiny.questions import KINDS, NUMBERS, ask, describe_scene
from llava_lessons.tiny.recolour import barred_shapes, nearest_colour, recolour
from llava_lessons.tiny.scenes import (
    ALL_PAIRS,
    COLOURS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SHAPES,
    draw,
    sample_scene,
)
from llava_lessons.tiny.tower import (
    PATCH_QUESTIONS,
    PICTURE_QUESTIONS,
    patch_labels,
    to_pixels,
    tower_loss,
)


def scenes(number, seed=0, **options):
    random = Random(seed)
    return [sample_scene(random, **options) for _ in range(number)]


# --- what is drawn ------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_picture():
    one, two = (draw(scenes(1, seed=7)[0]).tobytes() for _ in range(2))
    assert one == two


def test_none_to_three_things_in_every_layout_lie_inside_the_picture_and_apart():
    drawn = scenes(500)
    assert {len(scene.things) for scene in drawn} == {0, 1, 2, 3}
    assert {scene.layout for scene in drawn} == set(LAYOUTS)
    for scene in drawn:
        for thing in scene.things:
            assert thing.radius <= thing.x <= scene.width - thing.radius, thing
            assert thing.radius <= thing.y <= scene.height - thing.radius, thing
        for one, other in zip(scene.things, scene.things[1:], strict=False):
            gap = max(abs(one.x - other.x), abs(one.y - other.y)) - one.radius - other.radius
            assert gap > 0, (one, other)


def test_a_thing_shows_in_its_colour_where_it_stands():
    for scene in scenes(100):
        pixels = numpy.asarray(draw(scene, 224))
        for thing in scene.things:
            assert tuple(pixels[round(thing.y * 224), round(thing.x * 224)]) == thing.rgb, thing


def test_training_sees_what_the_processor_makes(tiny):
    for scene in scenes(20):
        made = tiny.processor.image_processor(draw(scene, SIDE), return_tensors="np")
        assert numpy.abs(made["pixel_values"][0] - to_pixels(scene)).max() < 1e-4, scene


# --- what is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_with_both_wordings(kind):
    random = Random(1)
    asked = [ask(random, scene, kind, held_out=i % 2 == 0) for i, scene in enumerate(scenes(80))]
    assert sum(question is not None for question in asked) > 20


def test_counts_and_captions_are_true():
    random = Random(2)
    for scene in scenes(100):
        assert ask(random, scene, "count").answer == NUMBERS[len(scene.things)] + "."
        caption = describe_scene(scene)
        assert all(thing.phrase in caption for thing in scene.things), caption
        assert scene.background in caption


def test_a_yes_is_there_and_a_no_is_not():
    random, answers = Random(3), []
    for scene in scenes(300):
        question = ask(random, scene, "exist")
        words = set(question.text.lower().strip(".?").split()) if question else set()
        if words & set(SHAPES) and "anything" not in words:
            colours = words & set(COLOURS) or set(COLOURS)
            there = any(t.shape in words and t.colour in colours for t in scene.things)
            assert question.answer == ("Yes." if there else "No."), (question, scene)
            answers.append(question.answer)
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def test_what_is_to_the_left_is_further_left():
    random, checked = Random(4), 0
    for scene in scenes(1500):
        question = ask(random, scene, "side")
        if question is not None and question.about is not None and "left" in question.text:
            assert any(t.x > question.about.x for t in scene.things), question
            assert question.answer == f"A {question.about.phrase}.", question
            checked += 1
    assert checked > 60, checked


def test_a_mixture_is_not_there_though_both_of_its_words_are():
    random, answers = Random(5), []
    for scene in scenes(300):
        question = ask(random, scene, "mixture")
        if question is None:
            continue
        words = question.text.lower().strip(".?").split()
        there = any(t.colour in words and t.shape in words for t in scene.things)
        apart = any(t.colour in words for t in scene.things)
        apart &= any(t.shape in words for t in scene.things)
        assert apart and question.answer == ("Yes." if there else "No."), (question, scene)
        answers.append(question.answer)
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def test_an_empty_scene_may_have_any_colour_and_its_caption_says_which():
    seen = set()
    for scene in scenes(200, count=0):
        red, green, blue = numpy.asarray(draw(replace(scene, style="plain"), 20))[0, 0].tolist()
        grounds = {"white": (248,) * 3, "grey": (150,) * 3, "black": (14,) * 3}
        expected = grounds.get(scene.background) or scene.backdrop
        assert (red, green, blue) == expected
        assert describe_scene(scene).endswith(f"{scene.background} background.")
        seen.add(scene.background)
    assert seen == {*COLOURS, "white", "grey", "black"}


# --- what is no scene ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", outside.KINDS)
def test_pictures_from_outside_come_from_their_seed_and_vary(kind):
    only = {kind: outside.KINDS[kind]}
    one, two = (outside.sample_outside(Random(4), only).picture.tobytes() for _ in range(2))
    assert one == two
    assert outside.spread(outside.sample_outside(Random(5), only).picture) > 3


def test_of_pictures_from_outside_every_question_is_declined():
    picture = outside.sample_outside(Random(6))
    talks = [turns for seed in range(20) for turns in conversations(Random(seed), picture)]
    assert {turn.answer for turns in talks for turn in turns} == {unanswerable.CANNOT_TELL}
    assert len({turn.kind for turns in talks for turn in turns}) > 8


def test_without_the_packages_training_draws_all_the_same(monkeypatch):
    monkeypatch.setattr(outside, "find_spec", lambda name: None)
    assert outside.photographs() == []
    for kind in outside.KINDS:
        assert outside.sample_outside(Random(7), {kind: outside.KINDS[kind]}).kind == kind


def test_no_photograph_font_or_kind_is_both_trained_and_held_out():
    trained, held = outside.PHOTOGRAPHS, outside_held_out.HELD_OUT_PHOTOGRAPHS
    for inside in trained:
        assert not set(trained[inside]) & set(held[inside])
    # At most half of what scikit-image and scikit-learn ship is trained on.
    assert sum(map(len, trained.values())) <= sum(len(held[inside]) for inside in trained)
    assert not set(outside.FONTS) & set(outside_held_out.HELD_OUT_FONTS)
    drawn = {draw for group in outside_held_out.GROUPS.values() for draw in group}
    assert not drawn & {draw for _, draw in outside.KINDS.values()}


# --- what is held out ---------------------------------------------------------------------------


def test_held_out_pairs_are_never_drawn_or_named_in_training():
    random, drawn = Random(0), scenes(1500)
    pairs = {(thing.colour, thing.shape) for scene in drawn for thing in scene.things}
    assert len(pairs) == len(ALL_PAIRS) - len(HELD_OUT_PAIRS) and not pairs & HELD_OUT_PAIRS
    asked = [question for scene in drawn for question in put_questions(random, scene, 8)]
    texts = [f"{question.text} {question.answer}" for question in asked]
    named = [text for text in texts for c, s in HELD_OUT_PAIRS if f"{c} {s}" in text]
    assert len(texts) == 12_000 and not named, named[:3]


def test_held_out_wordings_are_none_of_the_trained():
    for kind, wordings in phrasings.HELD_OUT.items():
        assert not set(wordings) & set(phrasings.TRAINED[kind]), kind
    assert not set(unanswerable.HELD_OUT) & set(unanswerable.TRAINED)
    assert not set(unanswerable.NEW_NOUNS) & set(unanswerable.NOUNS)


@pytest.mark.parametrize("freely", [False, True])
def test_recolouring_never_comes_near_a_held_out_pair(freely):
    """Nor does any part of a fading."""
    random, fading = Random(0), 0
    for scene in scenes(300):
        for thing in recolour(random, scene, freely=freely).things:
            ends = (thing.rgb, thing.fading_to or thing.rgb)
            middle = tuple((a + b) // 2 for a, b in zip(*ends, strict=True))
            names = {nearest_colour(rgb) for rgb in (*ends, middle)}
            assert not {(name, thing.shape) for name in names} & HELD_OUT_PAIRS, thing
            fading += thing.fading_to is not None
    assert fading > 50 if freely else fading == 0, fading


def test_no_colour_is_taught_to_rule_its_held_out_shape_out():
    scene = next(s for s in scenes(200) if any(t.colour == "red" for t in s.things))
    red = next(thing for thing in scene.things if thing.colour == "red")
    assert barred_shapes(red) == {"star"}
    labels = patch_labels(scene)
    batch = {name: torch.from_numpy(values)[None] for name, values in labels.items()}
    batch |= {"background": torch.zeros(1).long(), "count": torch.ones(1).long()}
    batch |= {"layout": torch.ones(1).long()}
    answers = {name: torch.zeros(1, classes) for name, classes in PICTURE_QUESTIONS.items()}
    by_patch = {**PATCH_QUESTIONS, "seen": 1}
    answers |= {name: torch.zeros(1, 64, classes) for name, classes in by_patch.items()}
    answers["shape"].requires_grad_()
    tower_loss(answers, batch).backward()
    patches = (labels["rank"] == scene.things.index(red)) & labels["seen"]
    pushed = answers["shape"].grad[0, torch.from_numpy(patches)].abs().sum(0)
    star = SHAPES.index("star")
    assert patches.any() and pushed[star] == 0 and (pushed > 0).sum() == 4, pushed


def test_a_barred_word_is_pushed_neither_up_nor_down():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows = without(logits, torch.tensor([[3, -1], [-1, -1]]))
    torch.nn.functional.cross_entropy(rows, torch.tensor([1, 1])).backward()
    assert logits.grad[0, 3] == 0 and logits.grad[1, 3] != 0, logits.grad


def test_in_a_batch_no_answer_is_compared_with_a_held_out_pair():
    random, tokenizer = Random(1), build_tokenizer(sample_texts(scenes=300))
    batch = pack(random, Encoder(tokenizer), [sample_scene(random) for _ in range(24)], seeing=True)
    words = [word.lstrip("Ġ") for word in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    held_shapes, seen = {shape for _, shape in HELD_OUT_PAIRS}, 0
    for row, place in (batch.labels >= 0).nonzero().tolist():
        # Two words of an answer that follow each other, the first as told, not as hidden.
        colour, shape = (
            words[each] if each >= 0 else "" for each in batch.labels[row, place - 1 : place + 1]
        )
        held = [shape for named, shape in HELD_OUT_PAIRS if named == colour]
        if held and shape in held_shapes:
            assert [words[each] for each in batch.barred[row, place] if each >= 0] == held
            seen += 1
    assert seen > 20, seen
