"""How often the embedded model is right, in float32 and in NF4: exact match, by kind of question.

    python tests/benchmarks/tiny_accuracy.py [FOLDER ...] [--count 200] [--seed 1] [--write STEM]

Without a folder it measures the model in the package. Three splits of scenes that training never
drew (see `llava_lessons.tiny.evaluate`), `--count` questions of each kind in each; another `--seed`
draws another sample. Prints the table and the bars that the model has to clear; `--write STEM`
keeps both as `results/STEM.md` and `results/STEM.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from llava_lessons.tiny.evaluate import SPLITS, measure
from llava_nb import load
from llava_nb.catalog import find

RESULTS = Path(__file__).parent / "results"
STORED = {"float32": None, "NF4": "4bit"}
ONE_WORD = ("colour", "shape", "size", "count", "exist")
# What the project asks of the model, in NF4: (split, kind) -> percent.
BARS = {
    ("new", "caption 1"): 98,
    ("new", "caption 2"): 92,
    ("new", "caption 3"): 80,
    **{("new", kind): 97 for kind in ONE_WORD},
    ("new", "side"): 92,
    ("pairs", "colour"): 93,
    ("pairs", "shape"): 93,
    ("pairs", "caption 1"): 85,
    ("pairs", "caption 2"): 75,
}


def percentages(folder: Path, count: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measure one model: percent right by stored form, split and kind."""
    table: dict = {}
    for form, quantization in STORED.items():
        llava = load(folder, quantization=quantization)
        table[form] = {}
        for split in SPLITS:
            rows = measure(llava.model, llava.processor, split, count=count, seed=seed)
            table[form][split] = {
                kind: 100 * row["right"] / row["asked"] for kind, row in rows.items()
            }
            for kind, row in rows.items():
                for text, wanted, given in row["mistakes"][:3]:
                    print(f"  {form} {split} {kind}: {text} | {wanted} | {given}", file=sys.stderr)
    return table


def mean(row: dict[str, float], kinds: set[str]) -> float:
    """The mean over kinds, each counting the same."""
    return sum(row[kind] for kind in kinds) / len(kinds)


def verdicts(table: dict) -> list[tuple[str, float, float, bool]]:
    """Every bar: what it is, the figure, the bar, whether it is cleared."""
    found = [
        (f"{split}: {kind}, NF4", table["NF4"][split][kind], bar, table["NF4"][split][kind] >= bar)
        for (split, kind), bar in BARS.items()
    ]
    for split in SPLITS:
        kinds = set(table["NF4"][split])
        gap = abs(mean(table["NF4"][split], kinds) - mean(table["float32"][split], kinds))
        found.append((f"{split}: NF4 from float32, points", gap, 1.0, gap <= 1.0))
    both = set(table["NF4"]["new"]) & set(table["NF4"]["paraphrase"])
    share = 100 * mean(table["NF4"]["paraphrase"], both) / mean(table["NF4"]["new"], both)
    found.append(("held-out wordings, % of the trained ones' score", share, 95, share >= 95))
    return found


def as_markdown(name: str, table: dict, count: int) -> str:
    """The table and the bars of one model, for people."""
    head = " | ".join(f"{split} {form}" for split in SPLITS for form in STORED)
    lines = [f"## {name}", "", f"Percent right; {count} questions in each cell.", ""]
    lines += [f"| kind | {head} |", "| --- |" + " ---: |" * len(SPLITS) * len(STORED)]
    for kind in table["NF4"]["new"]:
        cells = [table[form][split].get(kind) for split in SPLITS for form in STORED]
        shown = " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells)
        lines.append(f"| {kind} | {shown} |")
    lines += ["", "| bar | figure | bar | |", "| --- | ---: | ---: | --- |"]
    for label, figure, bar, cleared in verdicts(table):
        lines.append(f"| {label} | {figure:.1f} | {bar:g} | {'met' if cleared else 'MISSED'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="which sample of scenes (default: 1)")
    parser.add_argument("--write", metavar="STEM", help="keep the table under results/")
    options = parser.parse_args()
    tables = {
        folder.name if folder != find("tiny").folder else "tiny": percentages(
            folder, options.count, options.seed
        )
        for folder in options.folders or [find("tiny").folder]
    }
    versions = {name: version(name) for name in ("torch", "transformers", "bitsandbytes")}
    about = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = f"# Accuracy of the embedded model\n\nSample {options.seed}. {about}, "
    text += f"Python {platform.python_version()}.\n\n"
    text += "\n".join(as_markdown(name, table, options.count) for name, table in tables.items())
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.write}.md").write_text(text)
        kept = {
            "versions": versions,
            "count": options.count,
            "sample": options.seed,
            "percent_right": tables,
        }
        (RESULTS / f"{options.write}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return int(not all(row[3] for table in tables.values() for row in verdicts(table)))


if __name__ == "__main__":
    sys.exit(main())
