"""Counts the package's shape, and fails where it has outgrown what was agreed.

Counted: Python files, lines, the largest file, imports of one another a module, levels (the longest
chain of imports) and circles. Every import counts, also one inside a function or for types alone.

Usage: python tests/house.py, in the environment of the tests (grimp comes with import-linter).
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llava_nb"
LIMITS = {"files": 45, "lines": 7500, "largest": 450, "imports": 2.5, "levels": 9, "circles": 0}


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    """All modules that `start` imports, directly or not."""
    found, waiting = set(), [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def levels(reach: dict[str, set[str]]) -> int:
    """The number of modules in the longest chain of imports; a circle counts as one."""
    height: dict[str, int] = {}
    for name in sorted(reach, key=lambda each: len(reach[each] | {each})):
        below = (each for each in reach[name] if name not in reach[each])
        height[name] = 1 + max((height[each] for each in below), default=0)
    return max(height.values())


def main() -> int:
    """Prints the figures beside their limits; 1 if one is past its limit."""
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    edges = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    reach = {name: reachable(name, edges) for name in edges}
    rings = {name: frozenset(each for each in reach[name] if name in reach[each]) for name in reach}
    circles = set(filter(None, rings.values()))
    files = (ROOT / PACKAGE).rglob("*.py")
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    imports = round(sum(map(len, edges.values())) / len(lines), 2)
    counts = (len(lines), sum(lines), max(lines), imports, levels(reach), len(circles))
    figures = dict(zip(LIMITS, counts, strict=True))
    for name, figure in figures.items():
        past = " PAST ITS LIMIT" if figure > LIMITS[name] else ""
        print(f"{name:8} {figure:7g}  (at most {LIMITS[name]:g}){past}")
    for circle in circles:
        print("circle:", ", ".join(sorted(circle)))
    return int(any(figure > LIMITS[name] for name, figure in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
