"""Keeps the Korean notebooks up to date: `python tests/notebooks/editions.py [NAME ...]`.

A notebook in notebooks/ko/ is one in notebooks/ with its prose translated, cell by cell. After the
English one has been executed again, this copies its code cells (source, outputs, counts) and the
notebook's metadata, and keeps the Korean prose and the Korean texts for figures ("alt").
Without names it takes every Korean notebook. Prose that changed is for a person to translate.
"""

from __future__ import annotations

import copy
import sys
from itertools import zip_longest
from pathlib import Path

import nbformat

KOREAN = Path(__file__).resolve().parents[2] / "notebooks" / "ko"


class EditionsDiffer(Exception):
    """The two editions do not have the same cells in the same order."""


def brought_up_to_date(korean: dict, english: dict) -> dict:
    """Return the Korean notebook with the code cells of the English one."""
    kinds = [[cell["cell_type"] for cell in book["cells"]] for book in (english, korean)]
    for place, (there, here) in enumerate(zip_longest(*kinds, fillvalue="none"), start=1):
        if there != here:
            raise EditionsDiffer(
                f"Cell {place} is {there} in English and {here} in Korean. Give the Korean edition "
                "the same cells in the same order, then run this again."
            )
    made = copy.deepcopy(english)
    for new, old in zip(made["cells"], korean["cells"], strict=True):
        if new["cell_type"] == "markdown":
            new["source"] = old["source"]
        elif "alt" in old["metadata"]:
            new["metadata"]["alt"] = old["metadata"]["alt"]
    return made


def main(names: list[str]) -> int:
    """Bring the notebooks named up to date, or all, and say which changed."""
    for path in [Path(name) for name in names] or sorted(KOREAN.glob("*.ipynb")):
        korean = nbformat.read(path, as_version=4)
        english = nbformat.read(path.parent.parent / path.name, as_version=4)
        try:
            made = brought_up_to_date(korean, english)
        except EditionsDiffer as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        nbformat.write(made, path)
        print(f"{path.name}: {'is up to date' if made == korean else 'brought up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
