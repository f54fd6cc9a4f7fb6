"""Measure what a tiny model gets right: `python -m llava_lessons.tiny.evaluate [FOLDER ...]`.

Exact match, by kind of question, in float32 and in NF4; without a folder, of the embedded model.
Three splits of scenes that training never drew: "new" (trained pairs, trained wording),
"paraphrase" (the same with wording that training never used) and "pairs" (every scene holds a
colour-shape pair that training never showed or named; questions about one thing are about that
thing). `--count` questions of each kind in each (200); another `--seed` draws another sample.
Prints the table of the model card and the bars that a model has to clear; 1 if it misses one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from llava_nb import Llava, load

from .questions import Question, ask
from .scenes import ALL_PAIRS, HELD_OUT_PAIRS, TRAINED_PAIRS, Scene, draw, sample_scene

SPLITS = ("new", "paraphrase", "pairs")
CAPTIONS = {f"caption {count}": count for count in (0, 1, 2, 3)}
KINDS = (*CAPTIONS, "colour", "shape", "size", "count", "tally", "exist", "side", "end")
KINDS += ("background", "relation", "absent", "unknown")
STORED = {"float32": None, "NF4": "4bit"}
# What is asked of a model in NF4: percent right, by split and kind.
BARS = {
    "new": {"caption 1": 98, "caption 2": 92, "caption 3": 80, "side": 92}
    | dict.fromkeys(("colour", "shape", "size", "count", "exist"), 97),
    "pairs": {"colour": 93, "shape": 93, "caption 1": 85, "caption 2": 75},
}
NF4_FROM_FLOAT32, PARAPHRASE_OF_NEW = 1.0, 95.0  # points; percent of the score


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


def percentages(model: Any, count: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return percent right of what `load()` takes, by stored form, split and kind."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for form, quantization in STORED.items():
        llava, table[form] = load(model, quantization=quantization), {}
        for split in SPLITS:
            rows = measure(llava.model, llava.processor, split, count=count, seed=seed)
            shares = {kind: 100 * row["right"] / row["asked"] for kind, row in rows.items()}
            table[form][split] = shares
            for kind, row in rows.items():
                for text, wanted, given in row["mistakes"][:3]:
                    print(f"  {form} {split} {kind}: {text} | {wanted} | {given}", file=sys.stderr)
    return table


def mean(shares: dict[str, float], kinds: set[str]) -> float:
    """Return the mean over kinds, each counting the same."""
    return sum(shares[kind] for kind in kinds) / len(kinds)


def verdicts(table: dict) -> list[tuple[str, float, float, bool]]:
    """Return every bar: what it is, the figure, the bar, whether it is cleared."""
    nf4, found = table["NF4"], []
    for split, bars in BARS.items():
        for kind, bar in bars.items():
            figure = nf4[split][kind]
            found.append((f"{split}: {kind}, NF4", figure, bar, figure >= bar))
    for split, shares in nf4.items():
        gap = abs(mean(shares, {*shares}) - mean(table["float32"][split], {*shares}))
        what = f"{split}: NF4 from float32, points"
        found.append((what, gap, NF4_FROM_FLOAT32, gap <= NF4_FROM_FLOAT32))
    both = {*nf4["new"]} & {*nf4["paraphrase"]}
    share = 100 * mean(nf4["paraphrase"], both) / mean(nf4["new"], both)
    what = "held-out wordings, % of the trained ones' score"
    return [*found, (what, share, PARAPHRASE_OF_NEW, share >= PARAPHRASE_OF_NEW)]


def as_markdown(name: str, table: dict) -> str:
    """Return the table and the bars of one model, for people."""
    columns = [(split, form) for split in SPLITS for form in STORED]
    lines = [f"## {name}", "", f"| kind | {' | '.join(map(' '.join, columns))} |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for kind in table["NF4"]["new"]:
        cells = (table[form][split].get(kind) for split, form in columns)
        shown = " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells)
        lines.append(f"| {kind} | {shown} |")
    lines += ["", "| bar | figure | bar | |", "| --- | ---: | ---: | --- |"]
    for what, figure, bar, cleared in verdicts(table):
        lines.append(f"| {what} | {figure:.1f} | {bar:g} | {'met' if cleared else 'MISSED'} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="which sample of scenes (default: 1)")
    options = parser.parse_args(arguments)
    names = ("torch", "transformers", "bitsandbytes")
    about = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"Sample {options.seed}, {options.count} questions in each cell. {about}.\n")
    missed = False
    for model in options.models or ["tiny"]:
        table = percentages(model, options.count, options.seed)
        print(as_markdown(getattr(model, "name", model), table))
        missed |= not all(cleared for *_, cleared in verdicts(table))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
