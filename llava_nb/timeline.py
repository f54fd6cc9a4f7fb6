"""The figure of `VramLog.plot()`: peaks over the seconds of a session.

Covered: drawing. Not covered: measuring (`tracking.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figures import closed_figure
from .sizes import GIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .tracking import Track


def draw(tracks: Sequence[Track]) -> Figure:
    """Return a figure: for each track a box as wide as its time and as high as its peak.

    The line in a box goes from what was held at its start to what was held at its end.
    """
    figure, ((axes,),) = closed_figure((8, 3.5))
    known = [track for track in tracks if track.peak_bytes is not None]
    zero = min((track.started for track in known), default=0.0)
    end = max((track.started + track.seconds - zero for track in known), default=1.0)
    highest = max((track.peak_bytes for track in known), default=0) / GIB
    for number, track in enumerate(known):
        _box(axes, track, track.started - zero, max(track.seconds, end / 200), f"C{number % 10}")
    memory = known[0].memory if known else "memory"
    axes.set_xlim(0, end * 1.02 or 1.0)
    axes.set_ylim(0, highest * 1.25 or 1.0)  # room above for the labels
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"GiB of {memory}")
    axes.set_title(f"Peak of {memory}" if known else "Nothing tracked yet")
    return figure


def _box(axes: Axes, track: Track, left: float, width: float, colour: str) -> None:
    start, peak, end = (
        count / GIB for count in (track.start_bytes, track.peak_bytes, track.end_bytes)
    )
    axes.bar(left, peak, width, align="edge", color=colour, alpha=0.25, edgecolor=colour)
    axes.plot([left, left + width], [start, end], color=colour, linewidth=2)
    text = f"{'  ' * track.depth}{track.label}\n{'  ' * track.depth}{peak:.2f} GiB"
    axes.annotate(text, (left, peak), (2, 2), textcoords="offset points", fontsize=8)
