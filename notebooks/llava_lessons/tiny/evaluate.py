"""Measure what a tiny model gets right: `python -m llava_lessons.tiny.evaluate [FOLDER ...]`.

Exact match, by kind of question, in float32 and in NF4; without a folder, of the embedded model.
Three splits of scenes that training never drew: "new" (trained pairs, trained wording),
"paraphrase" (the same with wording that training never used) and "pairs" (every scene holds a
colour-shape pair that training never showed or named; questions about one thing are about that
thing). Beside them "outside": pictures that are no scenes, photographs and drawn kinds that
training never saw (`outside_held_out.py`), of which any question is to be declined; the
photographs come with `pip install "llava_nb[train]"`. `--count` questions of each kind in each
(200); another `--seed` draws another sample. Prints the table of the model card and the bars that
a model has to clear; 1 if it misses one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from llava_nb import Llava, load

from .outside_held_out import GROUPS, missing_photographs, sample_held_out
from .questions import KINDS as ALL_KINDS
from .questions import Question, ask
from .scenes import ALL_PAIRS, HELD_OUT_PAIRS, TRAINED_PAIRS, Scene, draw, sample_scene
from .unanswerable import CANNOT_TELL

SPLITS = ("new", "paraphrase", "pairs")
CAPTIONS = {f"caption {count}": count for count in (0, 1, 2, 3)}
KINDS = (*CAPTIONS, "empty", "colour", "shape", "size", "count", "tally", "exist", "mixture")
KINDS += ("side", "end", "background", "relation", "absent", "unknown")
OF_EMPTY = ("describe", "count", "tally", "exist", "background")  # what "empty" asks
STORED = {"float32": None, "NF4": "4bit"}
# What is asked of a model in NF4: percent right, by split and kind.
BARS = {
    "new": {"caption 1": 98, "caption 2": 92, "caption 3": 80, "side": 92}
    | {"empty": 97, "mixture": 90}
    | dict.fromkeys(("colour", "shape", "size", "count", "exist"), 97),
    "paraphrase": {"side": 90},
    "pairs": {"colour": 93, "shape": 93, "caption 1": 85, "caption 2": 75},
}
DECLINED = 97  # percent of pictures from outside, and of the photographs among them
OWN_DECLINED = 1.0  # percent of the questions about scenes that are declined wrongly, at most
SEEN = "photographs of training"  # shown in the table, but no part of any bar
NF4_FROM_FLOAT32, PARAPHRASE_OF_NEW = 1.0, 95.0  # points; percent of the score


def questions(split: str, kind: str, count: int, seed: int = 1) -> Iterator[tuple[Scene, Question]]:
    """Yield `count` scenes with one question each, always the same for the same seed."""
    random = Random(f"measure {split} {kind} {seed}")
    held_pairs = tuple(HELD_OUT_PAIRS) if split == "pairs" else ()
    pairs = ALL_PAIRS if split == "pairs" else TRAINED_PAIRS
    given = 0
    while given < count:
        things = 0 if kind == "empty" else CAPTIONS.get(kind)
        if held_pairs and things is None:
            things = random.choice((1, 2, 3))
        scene = sample_scene(random, count=things, must_hold=held_pairs)
        asked = "describe" if kind in CAPTIONS else "colour" if kind == "absent" else kind
        if kind == "empty":
            asked = random.choice(OF_EMPTY)
        question = ask(random, scene, asked, held_out=split == "paraphrase", pairs=pairs)
        if question is None or (asked == kind and question.kind != kind):
            continue
        if kind == "absent" and question.kind != kind:
            continue
        about = question.about
        if held_pairs and about and (about.colour, about.shape) not in HELD_OUT_PAIRS:
            continue
        given += 1
        yield scene, question


def outside_questions(
    group: str, count: int, seed: int = 1
) -> Iterator[tuple[Image.Image, Question]]:
    """Yield `count` pictures of a group from outside, each with a question of any kind.

    Half of the wordings are held out; the right answer is always that one cannot tell.
    """
    random = Random(f"measure outside {group} {seed}")
    given = 0
    while given < count:
        held_out = random.random() < 0.5
        kind = random.choice(list(ALL_KINDS))
        question = ask(random, sample_scene(random), kind, held_out=held_out)
        if question is not None:
            given += 1
            yield sample_held_out(random, group).picture, replace(question, answer=CANNOT_TELL)


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
    kinds: Sequence[str] | None = None,
    count: int = 200,
    seed: int = 1,
    side: int = 336,
    batch: int = 50,
) -> dict[str, dict]:
    """Return for each kind {"right", "asked", "mistakes"}; pictures of `side` pixels.

    `split` is one of `SPLITS`, or "outside", whose kinds are groups of pictures. Another `seed`
    draws another sample of scenes and questions.
    """
    table = {}
    for kind in kinds or (GROUPS if split == "outside" else KINDS):
        if split == "pairs" and kind in ("caption 0", "empty", "background", "absent", "unknown"):
            continue  # no held-out pair is in play
        if split == "paraphrase" and kind == "absent":
            continue  # part of "colour" there
        if split == "outside":
            items = list(outside_questions(kind, count, seed))
        else:
            items = [(draw(s, side), q) for s, q in questions(split, kind, count, seed)]
        mistakes = []
        for start in range(0, len(items), batch):
            pictures, asked = zip(*items[start : start + batch], strict=True)
            given = answers(model, processor, [*pictures], [each.text for each in asked])
            mistakes += [
                (question.text, question.answer, answer)
                for question, answer in zip(asked, given, strict=True)
                if answer != question.answer
            ]
        right = len(items) - len(mistakes)
        table[kind] = {"right": right, "asked": len(items), "mistakes": mistakes}
    return table


def percentages(model: Any, count: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return percent right of what `load()` takes, by stored form, split and kind."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for form, quantization in STORED.items():
        llava, table[form] = load(model, quantization=quantization), {}
        declined = answerable = 0
        for split in (*SPLITS, "outside"):
            rows = measure(llava.model, llava.processor, split, count=count, seed=seed)
            shares = {kind: 100 * row["right"] / row["asked"] for kind, row in rows.items()}
            table[form][split] = shares
            for kind, row in rows.items():
                for text, wanted, given in row["mistakes"][:3]:
                    print(f"  {form} {split} {kind}: {text} | {wanted} | {given}", file=sys.stderr)
                if split != "outside" and kind not in ("absent", "unknown"):
                    answerable += row["asked"]
                    declined += sum(each[2] == CANNOT_TELL for each in row["mistakes"])
        table[form]["own"] = {"declined": 100 * declined / answerable}
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
    for split in SPLITS:
        shares = nf4[split]
        gap = abs(mean(shares, {*shares}) - mean(table["float32"][split], {*shares}))
        what = f"{split}: NF4 from float32, points"
        found.append((what, gap, NF4_FROM_FLOAT32, gap <= NF4_FROM_FLOAT32))
    both = {*nf4["new"]} & {*nf4["paraphrase"]}
    share = 100 * mean(nf4["paraphrase"], both) / mean(nf4["new"], both)
    what = "held-out wordings, % of the trained ones' score"
    found.append((what, share, PARAPHRASE_OF_NEW, share >= PARAPHRASE_OF_NEW))
    for what, figure in (
        ("outside: all declined, NF4", mean(nf4["outside"], {*nf4["outside"]} - {SEEN})),
        ("outside: photographs declined, NF4", nf4["outside"]["photographs"]),
    ):
        found.append((what, figure, DECLINED, figure >= DECLINED))
    figure = nf4["own"]["declined"]
    what = "own scenes declined wrongly, NF4 (at most)"
    return [*found, (what, figure, OWN_DECLINED, figure <= OWN_DECLINED)]


def as_markdown(name: str, table: dict) -> str:
    """Return the table and the bars of one model, for people."""
    columns = [(split, form) for split in SPLITS for form in STORED]
    lines = [f"## {name}", "", f"| kind | {' | '.join(map(' '.join, columns))} |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for kind in table["NF4"]["new"]:
        cells = (table[form][split].get(kind) for split, form in columns)
        shown = " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells)
        lines.append(f"| {kind} | {shown} |")
    lines += ["", "| declined | float32 | NF4 |", "| --- | ---: | ---: |"]
    for group in table["NF4"]["outside"]:
        cells = [f"{table[form]['outside'][group]:.1f}" for form in STORED]
        lines.append(f"| outside: {group} | {' | '.join(cells)} |")
    cells = [f"{table[form]['own']['declined']:.1f}" for form in STORED]
    lines.append(f"| own scenes, wrongly | {' | '.join(cells)} |")
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
    if missing := missing_photographs():
        parser.error(
            f"The photographs of {', '.join(missing)} are not all here, and the model is "
            'measured with them too: pip install "llava_nb[train]"'
        )
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
