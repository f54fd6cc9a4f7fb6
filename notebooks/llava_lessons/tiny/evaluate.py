"""Measure what the embedded model gets right: exact match, by kind of question.

Three splits of scenes that training never drew: "new" (trained pairs, trained
wording), "paraphrase" (the same with wording that training never used) and
"pairs" (every scene holds a colour-shape pair that training never showed or named;
questions about one thing are about that thing). The numbers in the model card come
from here, through `tests/benchmarks/tiny_accuracy.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from PIL import Image

from llava_nb.inference.llava import Llava

from .questions import Question, ask
from .scenes import ALL_PAIRS, HELD_OUT_PAIRS, TRAINED_PAIRS, Scene, draw, sample_scene

SPLITS = ("new", "paraphrase", "pairs")
CAPTIONS = {f"caption {count}": count for count in (0, 1, 2, 3)}
KINDS = (*CAPTIONS, "colour", "shape", "size", "count", "tally", "exist", "side", "end")
KINDS += ("background", "relation", "absent", "unknown")


def questions(split: str, kind: str, count: int, seed: int = 1) -> Iterator[tuple[Scene, Question]]:
    """Yield `count` scenes with one question each, always the same for the same seed."""
    random = Random(f"measure {split} {kind} {seed}")
    held_pairs = tuple(HELD_OUT_PAIRS) if split == "pairs" else ()
    pairs = ALL_PAIRS if split == "pairs" else TRAINED_PAIRS
    given = 0
    while given < count:
        things = CAPTIONS[kind] if kind in CAPTIONS else None
        if held_pairs and things is None:
            things = random.choice((1, 2, 3))
        scene = sample_scene(random, count=things, must_hold=held_pairs)
        asked = "describe" if kind in CAPTIONS else "colour" if kind == "absent" else kind
        question = ask(random, scene, asked, held_out=split == "paraphrase", pairs=pairs)
        if question is None or (asked != "describe" and question.kind != kind):
            continue
        about = question.about
        if held_pairs and about and (about.colour, about.shape) not in HELD_OUT_PAIRS:
            continue
        given += 1
        yield scene, question


def answers(model, processor, pictures: list[Image.Image], texts: list[str]) -> list[str]:
    """Answer each text about its picture, greedily, in one batch."""
    # A Llava remembers pictures, and this model may have learnt since: so a new one each time.
    llava = Llava(model, processor, name="measured")
    given = llava.ask_batch(pictures, texts, batch_size=len(texts), max_new_tokens=64)
    return [answer.text for answer in given]


def measure(
    model,
    processor,
    split: str,
    *,
    kinds=KINDS,
    count: int = 200,
    seed: int = 1,
    side: int = 336,
    batch: int = 50,
) -> dict[str, dict]:
    """Return for each kind {"right", "asked", "mistakes"}; pictures of `side` pixels.

    Another `seed` draws another sample of scenes and questions.
    """
    table = {}
    for kind in kinds:
        if split == "pairs" and kind in ("caption 0", "background", "absent", "unknown"):
            continue  # no held-out pair is in play
        if split == "paraphrase" and kind == "absent":
            continue  # part of "colour" there
        items = list(questions(split, kind, count, seed))
        right, mistakes = 0, []
        for start in range(0, len(items), batch):
            part = items[start : start + batch]
            given = answers(
                model, processor, [draw(s, side) for s, _ in part], [q.text for _, q in part]
            )
            for (_, question), answer in zip(part, given, strict=True):
                right += answer == question.answer
                if answer != question.answer:
                    mistakes.append((question.text, question.answer, answer))
        table[kind] = {"right": right, "asked": len(items), "mistakes": mistakes}
    return table
