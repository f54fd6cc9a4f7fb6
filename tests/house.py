"""Counts the package's shape, and fails where it has outgrown what was agreed.

Counted: Python files, lines, the largest file, imports of one another a module, levels (the longest
chain of imports) and circles. Every import counts, also one inside a function or for types alone.

Usage: python tests/house.py [PACKAGE]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"files": 45, "lines": 7500, "largest": 450, "imports": 2.5, "levels": 9, "circles": 0}


def module_name(path: Path, root: Path) -> str:
    """The dotted name by which the file at `path` is imported; `root` is its package's folder."""
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, package: list[str]) -> Iterator[list[str]]:
    """For each import, the names it may mean, the longest first; `package` has the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ([each.name] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            yield from ([f"{stem}.{each.name}", stem] for each in node.names)


def imports_of(files: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports."""
    found = {}
    for name, path in files.items():
        package = name.split(".")[: None if path.name == "__init__.py" else -1]
        candidates = imported(ast.parse(path.read_text(encoding="utf-8")), package)
        nearest = (next((each for each in names if each in files), name) for names in candidates)
        found[name] = set(nearest) - {name}
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach one another."""
    reach = {name: reachable(name, edges) for name in edges}
    groups = {
        frozenset({name, *(each for each in reach[name] if name in reach[each])}) for name in edges
    }
    return sorted((set(group) for group in groups if len(group) > 1), key=sorted)


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    """All modules that `start` imports, directly or not."""
    found, waiting = set(), [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def levels(edges: dict[str, set[str]]) -> int:
    """The number of modules in the longest chain of imports; a circle counts as one."""
    reach = {name: reachable(name, edges) for name in edges}
    height: dict[str, int] = {}
    for name in sorted(edges, key=lambda each: len(reach[each] | {each})):
        below = (each for each in reach[name] if name not in reach[each] and each != name)
        height[name] = 1 + max((height[each] for each in below), default=0)
    return max(height.values())


def count(root: Path) -> tuple[dict[str, float], list[set[str]]]:
    """The figures by the names in LIMITS, and the circles."""
    files = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files.values()]
    edges = imports_of(files)
    found = circles(edges)
    figures = {
        "files": len(files),
        "lines": sum(lines),
        "largest": max(lines),
        "imports": round(sum(map(len, edges.values())) / len(files), 2),
        "levels": levels(edges),
        "circles": len(found),
    }
    return figures, found


def main(arguments: list[str]) -> int:
    """Prints the figures beside their limits; 1 if one is past its limit."""
    figures, found = count(Path(arguments[0]).resolve() if arguments else ROOT / "llava_nb")
    for name, figure in figures.items():
        past = " PAST ITS LIMIT" if figure > LIMITS[name] else ""
        print(f"{name:8} {figure:7g}  (at most {LIMITS[name]:g}){past}")
    for group in found:
        print("circle:", ", ".join(sorted(group)))
    return int(any(figure > LIMITS[name] for name, figure in figures.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
