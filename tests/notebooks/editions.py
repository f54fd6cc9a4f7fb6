"""Keeps the Korean notebooks up to date: `python tests/notebooks/editions.py [NAME ...]`.

A notebook in notebooks/ko/ is one in notebooks/ with its prose translated, cell by cell. After the
English one has been executed again, this copies its code cells (source, outputs, counts) and the
notebook's metadata, and keeps the Korean prose and the Korean texts for figures ("alt").
Without names it takes every Korean notebook. Prose that changed is for a person to translate.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KOREAN = ROOT / "notebooks" / "ko"


class EditionsDiffer(Exception):
    """The two editions do not have the same cells in the same order."""


def english_of(path: Path) -> Path:
    """The notebook that a Korean one is a translation of."""
    return path.parent.parent / path.name


def kinds(notebook: dict) -> list[str]:
    """Which cells are prose and which are code."""
    return [cell["cell_type"] for cell in notebook["cells"]]


def bring_up_to_date(path: Path) -> bool:
    """Copy the code cells into the Korean notebook at `path`; True if that changed it."""
    import nbformat

    english = nbformat.read(english_of(path), as_version=4)
    korean = nbformat.read(path, as_version=4)
    if kinds(english) != kinds(korean):
        raise EditionsDiffer(difference(path.name, kinds(english), kinds(korean)))
    for number, (ours, theirs) in enumerate(zip(korean.cells, english.cells, strict=True)):
        if theirs["cell_type"] == "code":
            alt = {"alt": ours["metadata"]["alt"]} if "alt" in ours["metadata"] else {}
            korean.cells[number] = nbformat.from_dict(theirs)
            korean.cells[number]["metadata"].update(alt)
        korean.cells[number]["id"] = theirs["id"]
    korean["metadata"] = english["metadata"]
    before = path.read_text(encoding="utf-8")
    nbformat.write(korean, path)
    return path.read_text(encoding="utf-8") != before


def difference(name: str, english: list[str], korean: list[str]) -> str:
    """Where the two lists part, in a sentence."""
    pairs = enumerate(zip(english, korean, strict=False), start=1)
    shorter = min(len(english), len(korean))
    place = next((place for place, (one, other) in pairs if one != other), shorter + 1)
    there, here = (each[place - 1] if place <= len(each) else "none" for each in (english, korean))
    return (
        f"{name}: cell {place} is {there} in English and {here} in Korean. Give the Korean edition "
        "the same cells in the same order, then run this again."
    )


def main(names: list[str]) -> int:
    """Bring the notebooks named up to date, or all, and say which changed."""
    for path in [Path(name) for name in names] or sorted(KOREAN.glob("*.ipynb")):
        try:
            changed = bring_up_to_date(path)
        except EditionsDiffer as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{path.name}: {'brought up to date' if changed else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
