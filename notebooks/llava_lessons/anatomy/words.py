"""Tokens: the prompt as the model reads it, the likeliest next words, the answer as it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_nb.vram.track import closed_figure

from .insides import Insides, Token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"before": "#c9d8ea", "picture": "#f4b183", "after": "#d5e8d4", "answer": "#fff2b3"}
NAMES = {
    "before": "before the picture",
    "picture": "picture",
    "after": "after it",
    "answer": "answer",
}
COLUMNS = 116  # characters in a line of tokens
LINE = 0.27  # inches


def show_tokens(insides: Insides) -> Figure:
    """Draw the tokens in reading order, coloured by what they belong to; the picture is one block.

    A dot is a space and an arrow a line break. The legend counts.
    """
    boxes, line, column = [], 0, 0
    for text, kind in _pieces(insides.tokens):
        width = len(text) + 1
        if column + width > COLUMNS:
            line, column = line + 1, 0
        boxes.append((text, kind, line, column))
        column += width
    figure, axes = _blank(8.5, LINE * (line + 3))
    for text, kind, row, left in boxes:
        style = {"facecolor": COLOURS[kind], "edgecolor": "none", "pad": 1.5}
        axes.text(left / COLUMNS, -row, text, fontsize=8, family="monospace", bbox=style)
    axes.set_ylim(-line - 1, 1.5)
    for place, (kind, name) in enumerate(NAMES.items()):
        count = sum(token.kind == kind for token in insides.tokens)
        style = {"facecolor": COLOURS[kind], "edgecolor": "none", "pad": 2}
        axes.text(place * 0.25, 1.2, f"{name}: {count}", fontsize=9, bbox=style)
    return figure


def _pieces(tokens: tuple[Token, ...]) -> list[tuple[str, str]]:
    """Texts and kinds, the picture's tokens joined to one."""
    count = sum(token.kind == "picture" for token in tokens)
    pieces = []
    for token in tokens:
        if token.kind != "picture":
            pieces.append((visible(token.text), token.kind))
        elif not pieces or pieces[-1][1] != "picture":
            pieces.append((f"[ {count} tokens of the picture ]", "picture"))
    return pieces


def visible(text: str) -> str:
    """Write spaces and line breaks so that they can be seen, and dollars so that they are."""
    return text.replace(" ", "·").replace("\n", "↵").replace("$", r"\$")  # else a formula


def show_probabilities(insides: Insides, word: str | int = 0, top: int = 8) -> Figure:
    """Draw the likeliest tokens at the place of one word of the answer, as bars; its own in colour.

    Raises PromptError for a word that the answer does not have.
    """
    place = insides.place(word)
    chosen = [token.id for token in insides.tokens if token.kind == "answer"][place]
    shares, ids = insides.logits[place].softmax(dim=-1).topk(top)
    figure, axes = _blank(6, 0.28 * top + 0.6, frame=True)
    colours = ["C1" if number == chosen else "C0" for number in ids.tolist()]
    axes.barh(range(top), shares, color=colours)
    axes.set_yticks(range(top), [visible(insides.spell(number)) for number in ids.tolist()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    for row, share in enumerate(shares.tolist()):
        axes.text(share + 0.01, row, f"{share:.1%}", va="center", fontsize=8)
    before = "".join(insides.words[:place]).strip() or "nothing yet"
    before = before if len(before) <= 80 else f"... {before[-76:]}"
    axes.set_title(f"after: {before}".replace("$", r"\$"), fontsize=9)
    axes.set_xlabel("probability")
    return figure


def show_growth(insides: Insides, top: int = 3) -> Figure:
    """Draw the answer growing: for each word the likeliest tokens, the chosen one on top."""
    shares, ids = insides.logits.softmax(dim=-1).topk(top)
    words = len(insides.words)
    figure, axes = _blank(8.5, 0.25 * words + 0.7)
    axes.set(ylim=(words - 0.3, -1.2), xlim=(0, top))
    for column, title in enumerate(("likeliest", "second", "third")[:top]):
        axes.text(column, -0.9, title, fontsize=9, weight="bold")
    for row, (here, numbers) in enumerate(zip(shares.tolist(), ids.tolist(), strict=True)):
        for column, (share, number) in enumerate(zip(here, numbers, strict=True)):
            axes.barh(row, 0.9 * share, 0.8, column, color="#c9d8ea")
            text = f"{visible(insides.spell(number))}  {share:.1%}"
            axes.text(column + 0.02, row, text, va="center", fontsize=8, family="monospace")
    return figure


def _blank(width: float, height: float, frame: bool = False) -> tuple[Figure, Axes]:
    """Begin a figure for text or bars."""
    figure, ((axes,),) = closed_figure((width, height))
    axes.spines[["top", "right"]].set_visible(False)
    if not frame:
        axes.set_axis_off()
        axes.set_xlim(0, 1)
    return figure, axes
