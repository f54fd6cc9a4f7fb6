"""What becomes of a picture before the language model: squared, cut into patches, made features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from llava_nb.vram.track import closed_figure

from .insides import Insides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_preparation(insides: Insides) -> Figure:
    """Draw the picture as it was given and as the vision tower gets it: padded, then shrunk."""
    figure, (given, seen) = row_of(2)
    given.imshow(insides.picture)
    given.set_title("given: {} x {} pixels".format(*insides.picture.size), fontsize=10)
    seen.imshow(insides.seen)
    seen.set_title("seen: {} x {} pixels".format(*insides.seen.size), fontsize=10)
    return figure


def show_patches(insides: Insides) -> Figure:
    """Draw the grid of patches over what the tower sees, each numbered where there is room."""
    figure, (axes,) = row_of(1, side=4.5)
    axes.imshow(insides.seen)
    step, grid = insides.seen.width / insides.grid, insides.grid
    few = grid <= 12
    width = 0.8 if few else 0.25  # many wide lines would cover the picture
    for line in range(1, grid):
        axes.axvline(line * step - 0.5, color="white", linewidth=width)
        axes.axhline(line * step - 0.5, color="white", linewidth=width)
        axes.axvline(line * step - 0.5, color="black", linewidth=width, linestyle=":")
        axes.axhline(line * step - 0.5, color="black", linewidth=width, linestyle=":")
    if few:
        for number in range(grid * grid):
            x, y = (number % grid + 0.5) * step, (number // grid + 0.5) * step
            axes.text(x, y, str(number), ha="center", va="center", fontsize=7, color="grey")
    axes.set_title(f"{grid} x {grid} = {grid * grid} patches", fontsize=10)
    return figure


def show_features(insides: Insides, layers: Sequence[int] | None = None) -> Figure:
    """Colour each patch by the first three principal components of its features, layer by layer.

    `layers` are places in `insides.features`; None takes a few, the one that is read among them.
    Patches of one colour hold similar features; a colour means nothing by itself.
    """
    last = len(insides.features) - 1
    if layers is None:
        layers = sorted({0, last // 3, 2 * last // 3, insides.layer, last})
    figure, row = row_of(len(layers) + 1, side=1.9)
    row[0].imshow(insides.seen)
    row[0].set_title("seen", fontsize=9)
    for axes, layer in zip(row[1:], layers, strict=True):
        axes.imshow(main_colours(insides.features[layer]).unflatten(0, (insides.grid, -1)))
        read = ", read" if layer % (last + 1) == insides.layer else ""
        axes.set_title(f"layer {layer % (last + 1)}{read}", fontsize=9)
    return figure


def main_colours(features: torch.Tensor) -> torch.Tensor:
    """Return red, green and blue, (patches, 3) from 0 to 1: the first three principal components.

    Of the features' directions, as large towers give a few patches of plain background a length
    many times that of the others (Darcet and others, 2023), which would then be all that is seen.
    A component's sign is arbitrary. Here the patch that differs most from the mean along it always
    counts as positive, so the colours do not depend on the sign that the solver happened to give.
    """
    directions = torch.nn.functional.normalize(features, dim=1)
    centred = directions - directions.mean(dim=0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    along = left[:, :3] * sizes[:3]  # (patches, 3)
    furthest = along.gather(0, along.abs().argmax(dim=0, keepdim=True))
    along = along * furthest.sign()
    low, high = along.amin(dim=0), along.amax(dim=0)
    return (along - low) / (high - low).clamp_min(1e-9)


def row_of(count: int, side: float = 3.0) -> tuple[Figure, list[Axes]]:
    """Begin a figure of pictures side by side."""
    figure, row = closed_figure((side * count, side + 0.3), columns=count)
    for axes in row[0]:
        axes.set_axis_off()
    return figure, list(row[0])
