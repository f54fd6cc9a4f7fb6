"""Where a word of the answer looked: its attention, laid over the picture.

Attention is what a layer mixes its input by. It shows where information was fetched from, not what
an answer depends on; for that see `occlusion.py`.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from llava_nb.vram.track import closed_figure

from .insides import Insides
from .sight import row_of
from .words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def attention_map(
    insides: Insides, word: str | int, layer: int | None = None, head: int | None = None
) -> torch.Tensor:
    """Return the attention of one word on each patch, (grid, grid), as shares of all its attention.

    None means the mean over all layers, or heads.
    """
    over = insides.on_picture[insides.place(word)]  # (layers, heads, grid, grid)
    over = over.mean(dim=0, keepdim=True) if layer is None else over[layer][None]
    return (over.mean(dim=1) if head is None else over[:, head])[0]


def show_attention(
    insides: Insides, word: str | int, layer: int | None = None, head: int | None = None
) -> Figure:
    """Lay the attention of one word over the picture: bright where it looked.

    The title says how much of all attention fell on the picture. Raises PromptError for a word
    that the answer does not have.
    """
    figure, (axes,) = row_of(1, side=3.4)
    over = attention_map(insides, word, layer, head)
    lay_over(axes, insides, over)
    where = f"layer {'all' if layer is None else layer}, head {'all' if head is None else head}"
    text = visible(insides.words[insides.place(word)].strip()) or "the end"
    axes.set_title(f"{text}: {where}\n{over.sum():.0%} of it on the picture", fontsize=9)
    return figure


def lay_over(axes: Axes, insides: Insides, over: torch.Tensor, colours: str = "inferno") -> None:
    """Draw the picture in grey and a map of the patches, (grid, grid), over it."""
    side = insides.seen.width
    axes.imshow(insides.seen.convert("L"), cmap="gray", vmin=0, vmax=255)
    axes.imshow(over, cmap=colours, alpha=0.6, extent=(-0.5, side - 0.5, side - 0.5, -0.5))


def show_heads(insides: Insides, word: str | int) -> Figure:
    """Draw the attention of one word in every layer (rows) and head (columns), small.

    Of many, eight layers and eight heads are drawn, evenly chosen. Each is scaled by itself.
    """
    maps = insides.on_picture[insides.place(word)]
    layers, heads = (_evenly(count) for count in maps.shape[:2])
    size = (1.05 * len(heads) + 0.5, 1.05 * len(layers) + 0.4)
    figure, rows = closed_figure(size, len(layers), len(heads))
    for layer, row in zip(layers, rows, strict=True):
        for head, axes in zip(heads, row, strict=True):
            lay_over(axes, insides, maps[layer, head])
            axes.set(xticks=[], yticks=[])
            if layer == layers[0]:
                axes.set_title(f"head {head}", fontsize=8)
            if head == heads[0]:
                axes.set_ylabel(f"layer {layer}", fontsize=8)
    return figure


def _evenly(count: int, most: int = 8) -> list[int]:
    """Return at most so many places, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def attention_slider(insides: Insides) -> Any:
    """Return a box with the overlay and sliders for word, layer and head; -1 is all of them.

    The picture is a widget's value, so it also changes where nothing can be printed into a cell.
    """
    import ipywidgets

    _, layers, heads, _ = insides.attention.shape
    words = [(f"{place}: {text.strip()}", place) for place, text in enumerate(insides.words)]
    word = ipywidgets.SelectionSlider(options=words, description="word")
    layer = ipywidgets.IntSlider(value=-1, min=-1, max=layers - 1, description="layer")
    head = ipywidgets.IntSlider(value=-1, min=-1, max=heads - 1, description="head")
    shown = ipywidgets.Image(format="png")

    def draw(_change: Any = None) -> None:
        chosen = (None if each.value < 0 else each.value for each in (layer, head))
        with io.BytesIO() as file:
            show_attention(insides, word.value, *chosen).savefig(file, format="png", dpi=90)
            shown.value = file.getvalue()

    for each in (word, layer, head):
        each.observe(draw, "value")
    draw()
    return ipywidgets.VBox([word, layer, head, shown])
