"""Conversations about pictures, packed into the rows that the language stages learn from.

A batch row is one picture and several short conversations about it: the picture's
tokens stand once, each conversation sees them and itself, and its positions go on from
the picture's. So the model sees exactly what it would see in a conversation of its own,
at a quarter of the price. Labels are on the answers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from random import Random

import numpy
import torch
from transformers import PreTrainedTokenizerFast

from .build import GRID, SYSTEM
from .held_out import NO_WORDS, HeldOutWords
from .outside import Outside, as_jpeg
from .questions import KINDS, Question, ask, describe_scene, is_recoloured, with_opener
from .scenes import COLOURS, Scene, draw, sample_scene
from .tower import IGNORE, pixels_of, to_pixels
from .unanswerable import CANNOT_TELL

# How often each kind is asked; a caption is asked of every third picture besides.
WEIGHTS = {
    "describe": 4,
    "colour": 10,
    "shape": 11,
    "size": 9,
    "count": 6,
    "tally": 7,
    "exist": 14,
    "mixture": 6,
    "side": 15,
    "end": 8,
    "background": 3,
    "relation": 9,
    "unknown": 7,
}
# What can be asked where colours have no names.
COLOURLESS = ("shape", "size", "count", "tally", "exist", "background", "relation", "unknown")
# A hidden answer word makes the model look at the picture rather than guess from the
# words before: without it, colour-shape pairs never seen together are never said.
HIDDEN_WORDS = 0.15


@dataclass(frozen=True)
class Batch:
    """Packed rows: ids, labels, positions, weights (b, n); who may see whom (b, 1, n, n).

    `barred` are words that a label is not compared with, (b, n, 2), -1 for none.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    barred: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the same rows on `device`."""
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(value if value is None else value.to(device) for value in values))


def put_questions(
    random: Random, scene: Scene, count: int, weights: dict[str, int] = WEIGHTS
) -> list[Question]:
    """Ask `count` questions of a scene, of kinds chosen by their weights."""
    if is_recoloured(scene):
        weights = {kind: weights[kind] for kind in COLOURLESS}
    questions: list[Question] = []
    while len(questions) < count:
        kind = random.choices(list(weights), weights=list(weights.values()))[0]
        question = ask(random, scene, kind)
        if question is not None:
            questions.append(_perhaps_opened(random, question))
    return questions


def _perhaps_opened(random: Random, question: Question) -> Question:
    return with_opener(random, question) if random.random() < 0.15 else question


def conversations(
    random: Random, scene: Scene | Outside, weights: dict[str, int] = WEIGHTS
) -> list[list[Question]]:
    """Return short conversations about a scene: mostly one turn, some two or three.

    About a picture from outside they are those of some scene, and all have the same answer.
    """
    if isinstance(scene, Outside):
        talks = conversations(random, sample_scene(random), weights)
        return [
            [replace(turn, answer=CANNOT_TELL, about=None) for turn in turns] for turns in talks
        ]
    found = [[question] for question in put_questions(random, scene, 6, weights)]
    found.append(put_questions(random, scene, random.choice((2, 2, 3)), weights))
    if random.random() < 0.35 and not is_recoloured(scene):
        found[0] = [_perhaps_opened(random, ask(random, scene, "describe"))]
    return found


class Encoder:
    """Turns conversations into ids, remembering the pieces that come again."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.hidden = tokenizer.unk_token_id
        self.end = tokenizer.eos_token_id
        self.before = [tokenizer.bos_token_id, *self.encode(f"{SYSTEM} USER: ")]
        self._known: dict[str, list[int]] = {}
        self.held_out = HeldOutWords(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def conversation(self, turns: list[Question]) -> tuple[list, list, list, list]:
        """Return the ids after the picture, labels that are the answers alone, weights, bars.

        A token weighs less in a longer answer (by the root of its length): otherwise
        captions, easily learnt, drown the one word that a short answer turns on.
        """
        ids: list[int] = []
        labels: list[int] = []
        weights: list[float] = []
        barred: list[tuple[int, int]] = []
        for index, turn in enumerate(turns):
            opening = "\n" if index == 0 else "USER: "
            prompt = self._remember(f"{opening}{turn.text} ASSISTANT:")
            answer = [*self._remember(f" {turn.answer}"), self.end]
            ids += prompt + answer
            labels += [IGNORE] * len(prompt) + answer
            weights += [0.0] * len(prompt) + [len(answer) ** -0.5] * len(answer)
            barred += [NO_WORDS] * len(prompt) + self.held_out.beside(answer, turn.about)
        return ids, labels, weights, barred

    def _remember(self, text: str) -> list[int]:
        if text not in self._known:
            if len(self._known) > 50_000:
                self._known.clear()
            self._known[text] = self.encode(text)
        return self._known[text]


def drawn_freely(random: Random, scene: Scene) -> Scene:
    """Return the scene as another person might draw it, mostly, if one thing is in it.

    Upright or turned further, in exactly the CSS colour of that name, on exact white or black,
    larger, anywhere in a frame of other proportions.
    """
    if len(scene.things) != 1 or is_recoloured(scene) or random.random() < 0.25:
        return scene
    thing = scene.things[0]
    short = random.uniform(0.55, 1)
    width, height = random.choice(((1.0, 1.0), (1.0, short), (short, 1.0)))
    radius = thing.radius
    if thing.size == "large":
        radius = random.uniform(0.14, 0.33) * min(width, height)
        radius = max(radius, 0.135)
    room = 1.13 * radius
    x, y = random.uniform(room, width - room), random.uniform(room, height - room)
    new = replace(
        thing,
        x=x,
        y=y,
        radius=radius,
        angle=random.choice((0.0, 0.0, random.uniform(-14, 14))),
        rgb=COLOURS[thing.colour][1] if random.random() < 0.6 else thing.rgb,  # the CSS colour
    )
    level = {"white": 255, "grey": 128, "black": 0}[scene.background]
    exact = (level,) * 3 if random.random() < 0.5 else None
    style = "plain" if random.random() < 0.7 else scene.style
    return replace(scene, things=(new,), width=width, height=height, style=style, backdrop=exact)


def as_it_may_come(random: Random, scene: Scene) -> numpy.ndarray:
    """Return the pixels of a scene that was drawn in some size and perhaps saved as a JPEG.

    So that a scene is not told from pictures of other kinds by how sharp its edges are.
    """
    picture = draw(drawn_freely(random, scene), random.randint(112, 448))
    return pixels_of(as_jpeg(random, picture) if random.random() < 0.2 else picture)


def pack(
    random: Random,
    encoder: Encoder,
    scenes: list[Scene | Outside],
    *,
    seeing: bool,
    weights: dict[str, int] = WEIGHTS,
    to_pixels: Callable[[Scene], numpy.ndarray] = to_pixels,
) -> Batch:
    """Pack one row a scene; without `seeing`, the caption stands for the picture."""
    talks = [conversations(random, scene, weights) for scene in scenes]
    rows = [_row(random, encoder, *pair, seeing) for pair in zip(scenes, talks, strict=True)]
    longest = max(len(row[0]) for row in rows)
    fillers = (encoder.end, IGNORE, 0, 0.0, NO_WORDS, -1)
    columns = [
        torch.tensor([row[i] + [filler] * (longest - len(row[i])) for row in rows])
        for i, filler in enumerate(fillers)
    ]
    ids, labels, positions, weights, barred, group = columns
    order = torch.arange(longest)
    earlier = order[None, :] <= order[:, None]
    shared = (group == 0)[:, None, :] | (group[:, None, :] == group[:, :, None])
    mask = (shared & earlier)[:, None]  # (b, 1, n, n)
    pixels = None
    if seeing:
        seen = (
            pixels_of(scene.picture) if isinstance(scene, Outside) else to_pixels(scene)
            for scene in scenes
        )
        pixels = torch.from_numpy(numpy.stack([*seen]))
    return Batch(ids, labels, positions, weights, barred, mask, pixels)


def _row(
    random: Random, encoder: Encoder, scene: Scene, talks: list[list[Question]], seeing: bool
) -> tuple[list, ...]:
    """Return ids, labels, positions, weights, bars and group (0: seen by all) of a packed row."""
    picture = [encoder.image] * (GRID * GRID)
    ids = encoder.before + (picture if seeing else encoder.encode(describe_scene(scene)))
    start = len(ids)
    labels, positions, group = [IGNORE] * start, list(range(start)), [0] * start
    weights, barred = [0.0] * start, [NO_WORDS] * start
    for number, turns in enumerate(talks, start=1):
        more, targets, shares, bars = encoder.conversation(turns)
        labels += targets
        weights += shares
        barred += bars
        positions += range(start, start + len(more))
        group += [number] * len(more)
        ids += [
            encoder.hidden
            if target not in (IGNORE, encoder.end) and random.random() < HIDDEN_WORDS
            else token
            for token, target in zip(more, targets, strict=True)
        ]
    return ids, labels, positions, weights, barred, group


def sample_texts(seed: int = 0, scenes: int = 6000) -> list[str]:
    """Return sentences of this world, for training the tokenizer."""
    random = Random(f"texts {seed}")
    texts = [f"{SYSTEM} USER: ", "\n", " ASSISTANT:"] * 50
    for _ in range(scenes):
        scene = sample_scene(random)
        for question in put_questions(random, scene, len(KINDS)):
            texts += [f"\n{question.text} ASSISTANT:", f" {question.answer}"]
    return texts
