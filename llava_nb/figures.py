"""How a figure is begun that a cell returns. Not covered: what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from matplotlib.figure import Figure


def closed_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, numpy.ndarray]:
    """Return a figure of `size` inches and its axes, (rows, columns).

    It is closed for pyplot, so a notebook shows it once, as a cell's result, and not a second time
    at the end of the cell. matplotlib is needed here only.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    pyplot.close(figure)
    return figure, axes
