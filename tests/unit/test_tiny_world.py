"""The drawn world: what is drawn, what is kept out of training, and that answers are true."""

from random import Random

import numpy
import pytest
import torch

from llava_lessons.tiny import phrasings, unanswerable
from llava_lessons.tiny.build import PATCH, SIDE
from llava_lessons.tiny.packing import put_questions
from llava_lessons.tiny.questions import KINDS, NUMBERS, ask, describe_scene
from llava_lessons.tiny.recolour import barred_shapes, nearest_colour, recolour
from llava_lessons.tiny.scenes import (
    ALL_PAIRS,
    COLOURS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SHAPES,
    SIZES,
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


def test_the_world_is_large_enough():
    assert len(SHAPES) >= 4 and len(COLOURS) >= 6 and len(SIZES) == 2


def test_the_same_seed_draws_the_same_picture():
    one, two = (draw(scenes(1, seed=7)[0]).tobytes() for _ in range(2))
    assert one == two


def test_there_are_none_to_three_things_in_every_layout():
    seen = {(len(scene.things), scene.layout) for scene in scenes(300)}
    assert {count for count, _ in seen} == {0, 1, 2, 3} and {x for _, x in seen} == set(LAYOUTS)


def test_things_lie_inside_the_picture_and_apart():
    for scene in scenes(500):
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


def test_held_out_pairs_are_never_drawn_in_training():
    drawn = {(t.colour, t.shape) for scene in scenes(2000) for t in scene.things}
    assert len(drawn) == len(ALL_PAIRS) - len(HELD_OUT_PAIRS) and not drawn & HELD_OUT_PAIRS


def test_held_out_pairs_are_never_named_in_training():
    random = Random(0)
    texts = [
        f"{question.text} {question.answer}"
        for scene in scenes(1500)
        for question in put_questions(random, scene, 8)
    ]
    named = [text for text in texts for c, s in HELD_OUT_PAIRS if f"{c} {s}" in text]
    assert len(texts) == 12_000 and not named, named[:3]


def test_recolouring_never_comes_near_a_held_out_pair():
    random = Random(0)
    for scene in scenes(300):
        for thing in recolour(random, scene).things:
            assert (nearest_colour(thing.rgb), thing.shape) not in HELD_OUT_PAIRS


def test_recolouring_freely_comes_no_nearer_in_any_part_of_a_fading():
    random, fading = Random(0), 0
    for scene in scenes(300):
        for thing in recolour(random, scene, freely=True).things:
            if thing.fading_to is not None:
                fading += 1
                middle = tuple(
                    (a + b) // 2 for a, b in zip(thing.rgb, thing.fading_to, strict=True)
                )
                names = {nearest_colour(rgb) for rgb in (thing.rgb, middle, thing.fading_to)}
                assert not {(name, thing.shape) for name in names} & HELD_OUT_PAIRS, thing
    assert fading > 50, fading


def test_a_fading_thing_and_a_backdrop_are_drawn():
    random = Random(1)
    scene = next(
        s
        for s in (recolour(random, each, freely=True) for each in scenes(50, count=1))
        if s.backdrop and s.things[0].fading_to and s.style == "plain"
    )
    pixels, thing = numpy.asarray(draw(scene, 224)).astype(int), scene.things[0]
    assert tuple(pixels[1, 1]) == scene.backdrop
    middle = pixels[round(thing.y * 224), round(thing.x * 224)]
    expected = (numpy.array(thing.rgb) + numpy.array(thing.fading_to)) / 2
    assert abs(middle - expected).max() < 12, (middle, expected)


def test_no_colour_is_taught_to_rule_its_held_out_shape_out():
    scene = next(s for s in scenes(200) if any(t.colour == "red" for t in s.things))
    red = next(thing for thing in scene.things if thing.colour == "red")
    assert barred_shapes(red) == {"star"}
    labels = patch_labels(scene)
    batch = {name: torch.from_numpy(values)[None] for name, values in labels.items()}
    batch |= {"background": torch.zeros(1).long(), "count": torch.ones(1).long()}
    batch |= {"layout": torch.ones(1).long()}
    sizes = {**PATCH_QUESTIONS, **PICTURE_QUESTIONS, "seen": 1}
    answers = {
        name: torch.zeros(1, *((64,) if name in (*PATCH_QUESTIONS, "seen") else ()), classes)
        for name, classes in sizes.items()
    }
    answers["shape"].requires_grad_()
    tower_loss(answers, batch).backward()
    patches = (labels["rank"] == scene.things.index(red)) & labels["seen"]
    pushed = answers["shape"].grad[0, torch.from_numpy(patches)].abs().sum(0)
    star = SHAPES.index("star")
    assert patches.any() and pushed[star] == 0 and (pushed > 0).sum() == 4, pushed


def test_held_out_wordings_are_none_of_the_trained():
    for kind, wordings in phrasings.HELD_OUT.items():
        assert not set(wordings) & set(phrasings.TRAINED[kind]), kind
    assert not set(unanswerable.HELD_OUT) & set(unanswerable.TRAINED)
    assert not set(unanswerable.NEW_NOUNS) & set(unanswerable.NOUNS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_with_both_wordings(kind):
    random = Random(1)
    asked = [ask(random, scene, kind, held_out=i % 2 == 0) for i, scene in enumerate(scenes(80))]
    assert sum(question is not None for question in asked) > 20


def test_counts_are_true():
    random = Random(2)
    for scene in scenes(50):
        assert ask(random, scene, "count").answer == NUMBERS[len(scene.things)] + "."


def test_a_yes_is_there_and_a_no_is_not():
    random, answers = Random(3), []
    for scene in scenes(300):
        question = ask(random, scene, "exist")
        if question is not None and "anything" not in question.text:
            words = set(question.text.lower().strip(".?").split())
            there = any(
                words & {t.shape} and (not words & set(COLOURS) or t.colour in words)
                for t in scene.things
            )
            if words & set(SHAPES):
                assert question.answer == ("Yes." if there else "No."), (question, scene)
                answers.append(question.answer)
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def test_what_is_to_the_left_is_further_left():
    random, checked = Random(4), 0
    for scene in scenes(1500):
        question = ask(random, scene, "side")
        if question is None or question.about is None or "left" not in question.text:
            continue
        others = [t for t in scene.things if t != question.about and t.x > question.about.x]
        assert others and question.answer == f"A {question.about.phrase}.", question
        checked += 1
    assert checked > 60, checked


def test_a_caption_names_everything():
    for scene in scenes(100):
        caption = describe_scene(scene)
        assert (
            all(thing.phrase in caption for thing in scene.things) and scene.background in caption
        )


def test_patch_labels_are_of_the_thing_that_is_there():
    scene = scenes(1, seed=5, count=1)[0]
    labels = patch_labels(scene)
    dx, dy = (1 - scene.width) / 2, (1 - scene.height) / 2
    thing = scene.things[0]
    row, column = int((thing.y + dy) * SIDE // PATCH), int((thing.x + dx) * SIDE // PATCH)
    assert labels["shape"][row * (SIDE // PATCH) + column] == SHAPES.index(thing.shape)


def test_training_sees_what_the_processor_makes(tiny):
    for scene in scenes(20):
        made = tiny.processor.image_processor(draw(scene, SIDE), return_tensors="np")
        difference = numpy.abs(made["pixel_values"][0] - to_pixels(scene)).max()
        assert difference < 1e-5, (scene, difference)
