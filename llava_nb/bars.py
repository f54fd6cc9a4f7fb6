"""Amounts of memory as a table for text, and as one stacked bar with its legend for HTML.

Covered: how rows of (name, bytes) are written. Not covered: which rows there are; those
come from `estimate.py` and `vram.py`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from .sizes import GIB, format_gib

Row = tuple[str, int]

# Hues far apart, each light enough for dark themes and dark enough for light ones. Text has no
# colour of its own: the page's suits its theme.
HUES = (210, 30, 130, 280, 0, 175, 55, 320, 90, 245)
FREE = "hsla(0, 0%, 50%, 0.15)"


def in_gib(count: int | None) -> str:
    """Write bytes as GiB, with four digits behind the point where two would say nothing."""
    small = count is not None and 0 < abs(count) < GIB // 100
    return f"{count / GIB:.4f} GiB" if small else format_gib(count)


def table(rows: Sequence[tuple[str, int | None, str]]) -> str:
    """Write (name, bytes, note) as aligned lines; a name that is empty is a ruled line."""
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, count, note in rows:
        if not name:
            lines.append("-" * (width + 13))
            continue
        line = f"{name:<{width}}{in_gib(count):>13}"
        lines.append(f"{line}  {note}" if note else line)
    return "\n".join(lines)


def stacked_bar(title: str, rows: Sequence[Row], whole: int, whole_name: str, note: str) -> str:
    """Return HTML: `rows` side by side, as wide as they are of `whole` bytes, and a legend.

    Where the rows together are more than the whole, the bar is drawn to their sum and a
    line marks where the whole ends. All text is escaped; screen readers get the
    numbers from the bar's label.
    """
    rows = [(name, max(count, 0)) for name, count in rows]
    used = sum(count for _, count in rows)
    span = max(used, whole, 1)
    colours = [f"hsl({HUES[place % len(HUES)]}, 55%, 55%)" for place in range(len(rows))]
    pieces = [
        _piece(name, count, 100 * count / span, colour)
        for (name, count), colour in zip(rows, colours, strict=True)
    ]
    legend = [_legend(*row, colour) for row, colour in zip(rows, colours, strict=True)]
    if whole > used:
        pieces.append(_piece("free", whole - used, 100 * (whole - used) / span, FREE))
        legend.append(_legend("free", whole - used, FREE))
    label = f"{title}: {', '.join(f'{name} {in_gib(count)}' for name, count in rows)}; "
    label += f"{format_gib(used)} of {format_gib(whole)} ({whole_name})"
    bar = (
        f'<div role="img" aria-label="{html.escape(label)}" style="position: relative; '
        'display: flex; height: 1.6em; max-width: 48em; margin: 0.4em 0; outline: 1px solid">'
        f"{''.join(pieces)}{_mark(whole, used, span)}</div>"
    )
    return (
        f"<div><b>{html.escape(title)}</b></div>{bar}<div>{html.escape(note)}</div>"
        f'<table style="margin-left: 0; color: inherit">{"".join(legend)}</table>'
    )


def _piece(name: str, count: int, percent: float, colour: str) -> str:
    about = html.escape(f"{name}: {in_gib(count)}")
    return f'<span title="{about}" style="width: {percent:.2f}%; background: {colour}"></span>'


def _mark(whole: int, used: int, span: int) -> str:
    if used <= whole:
        return ""
    place = f"left: {100 * whole / span:.2f}%"
    about = f"the end of {whole / GIB:.2f} GiB"
    return (
        f'<span title="{about}" style="position: absolute; top: -0.3em; bottom: -0.3em; '
        f'{place}; border-left: 3px solid"></span>'
    )


def _legend(name: str, count: int, colour: str) -> str:
    swatch = f'<td style="background: {colour}; width: 1em"></td>'
    cell = '<td style="text-align: {}">{}</td>'
    return (
        f"<tr>{swatch}{cell.format('left', html.escape(name))}"
        f"{cell.format('right', in_gib(count))}</tr>"
    )
