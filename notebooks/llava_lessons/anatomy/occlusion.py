"""What an answer depends on: blank one part of the picture after the other and see what changes.

(Zeiler and Fergus, 2014, did this to networks that name pictures.) Blank is, unless told otherwise,
the mean colour of the pictures that the vision tower was trained on, which is also what a picture
is padded with. On a plain background a square of it can itself be seen; the background's own colour
hides better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llava_nb.errors import PromptError

from .insides import Insides
from .looking import lay_over
from .sight import row_of
from .words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llava_nb.inference.llava import Llava


def blank_each_cell(
    llava: Llava,
    insides: Insides,
    *,
    cells: int = 8,
    batch_size: int = 8,
    blank: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return how much less likely each word is with one cell blank, (words, cells, cells).

    In nats: the difference of the logarithms of its probability, the words before it given. The
    picture is cut into `cells` x `cells`, and the model runs once for each. `blank` is a colour as
    in `insides.pixels`, (3,); None is the mean colour. Raises PromptError if a cell would be
    smaller than a patch.
    """
    if not 1 <= cells <= insides.grid:
        raise PromptError(f"cells is {cells}; this model has {insides.grid} patches along a side.")
    side = insides.pixels.shape[-1]
    colour = 0 if blank is None else blank.to(insides.pixels)[:, None, None]  # 0: the mean
    edges = [round(side * line / cells) for line in range(cells + 1)]
    blanked = []
    for top, bottom in zip(edges, edges[1:], strict=False):
        for left, right in zip(edges, edges[1:], strict=False):
            pixels = insides.pixels.clone()
            pixels[..., top:bottom, left:right] = colour
            blanked.append(pixels)
    whole = _likelihoods(llava, insides, [insides.pixels])
    parts = [
        _likelihoods(llava, insides, blanked[start : start + batch_size])
        for start in range(0, len(blanked), batch_size)
    ]
    return (whole - torch.cat(parts)).T.unflatten(1, (cells, cells))


def _likelihoods(llava: Llava, insides: Insides, pixels: list[torch.Tensor]) -> torch.Tensor:
    """Return for each picture the logarithm of each word's probability, (pictures, words)."""
    words, found = len(insides.words), []

    def work() -> None:
        ids = insides.ids.expand(len(pixels), -1).to(llava.device)
        with torch.no_grad():
            output = llava.engine.network(
                input_ids=ids, pixel_values=torch.cat(pixels).to(llava.device), use_cache=False
            )
        logs = output.logits[:, -words - 1 : -1].float().log_softmax(dim=-1)
        found.append(logs.gather(2, ids[:, -words:, None])[..., 0].cpu())

    llava.engine.guarded(work, words)
    return found[0]


def show_occlusion(insides: Insides, drops: torch.Tensor, word: str | int | None = None) -> Figure:
    """Lay over the picture how much blanking each cell hurts a word; None: the whole answer.

    Red: less likely without that cell. Blue: likelier without it.
    """
    over = drops.sum(dim=0) if word is None else drops[insides.place(word)]
    figure, (axes,) = row_of(1, side=3.6)
    limit = max(over.abs().max().item(), 1e-9)
    lay_over(axes, insides, over, "RdBu_r")
    axes.images[-1].set_clim(-limit, limit)
    figure.colorbar(axes.images[-1], ax=axes, shrink=0.7, label="nats lost when blank")
    name = "the answer" if word is None else visible(insides.words[insides.place(word)].strip())
    axes.set_title(f"what {name} depends on", fontsize=9)
    return figure
