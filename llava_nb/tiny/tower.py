"""Before anything else, the vision tower learns to see.

LLaVA starts from a CLIP tower that has read 400 million captions. Ours, far too
small for that, is taught what each patch shows: whether a thing covers it, which
shape, colour and size the thing has, and whether it comes first, second or third.
These questions are put to the last layer but one, which LLaVA reads. The last layer
answers for the whole picture (background, how many things, row or column), as
CLIP's last layer answers for the whole caption. The heads are thrown away after.

Many pictures are recoloured at random and judged by shape alone, a third of them in
the first stage and three quarters in the second: this is what keeps shape from being
read off the colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModel

from .build import GRID, PADDING, PATCH, PIXEL_MEAN, PIXEL_STD, SIDE
from .optimise import Schedule, optimisers
from .scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SHAPES,
    SIZES,
    Scene,
    draw,
    sample_scene,
    thing_mask,
)

PATCH_QUESTIONS = {"colour": len(COLOURS), "shape": len(SHAPES), "size": len(SIZES), "rank": 3}
PICTURE_QUESTIONS = {"background": len(BACKGROUNDS), "count": 4, "layout": len(LAYOUTS)}
SEEN = 0.2  # a patch shows a thing when the thing covers this much of it
# The share of recoloured pictures, and the learning rate. The second stage loosens shape
# from colour further, once there is something to loosen.
STAGES = {"tower": (0.35, 2e-3), "recolour": (0.75, 1e-3)}
IGNORE = -100  # what cross_entropy leaves out


def to_pixels(scene: Scene) -> numpy.ndarray:
    """Draw, pad and normalise a scene: (3, SIDE, SIDE) float32.

    The same values that the model's image processor makes of `draw(scene, SIDE)`.
    """
    picture = draw(scene, SIDE)
    canvas = Image.new("RGB", (SIDE, SIDE), PADDING)
    canvas.paste(picture, padding_offset(scene))
    pixels = numpy.asarray(canvas, dtype=numpy.float32) / 255
    return ((pixels - PIXEL_MEAN) / PIXEL_STD).transpose(2, 0, 1).astype(numpy.float32)


def padding_offset(scene: Scene) -> tuple[int, int]:
    """Return where the picture's corner lies on the padded square."""
    return (
        (SIDE - round(SIDE * scene.width)) // 2,
        (SIDE - round(SIDE * scene.height)) // 2,
    )


def patch_labels(scene: Scene) -> dict[str, numpy.ndarray]:
    """Return for each of the GRID x GRID patches what it shows, IGNORE if nothing."""
    labels = {name: numpy.full(GRID * GRID, IGNORE) for name in PATCH_QUESTIONS}
    best = numpy.full(GRID * GRID, SEEN)
    dx, dy = padding_offset(scene)
    colours = list(COLOURS)
    for rank, thing in enumerate(scene.things):
        mask, (left, top) = thing_mask(thing, SIDE)
        canvas = Image.new("L", (SIDE, SIDE))
        canvas.paste(mask, (left + dx, top + dy))
        cover = numpy.asarray(canvas.reduce(PATCH), dtype=numpy.float32).reshape(-1) / 255
        mine = cover > best
        best = numpy.maximum(best, cover)
        colour = colours.index(thing.colour) if thing.colour in colours else IGNORE
        labels["colour"][mine] = colour
        labels["shape"][mine] = SHAPES.index(thing.shape)
        labels["size"][mine] = SIZES.index(thing.size)
        labels["rank"][mine] = rank
    labels["seen"] = best > SEEN
    return labels


def recolour(random: Random, scene: Scene) -> Scene:
    """Give each thing any colour that stands out, and no colour name."""
    level = BACKGROUNDS[scene.background]
    things = []
    for thing in scene.things:
        while True:
            rgb = tuple(random.randrange(256) for _ in range(3))
            stands_out = max(abs(value - level) for value in rgb) > 70
            if stands_out and (nearest_colour(rgb), thing.shape) not in HELD_OUT_PAIRS:
                break
        things.append(replace(thing, rgb=rgb, colour=""))
    return replace(scene, things=tuple(things))


def nearest_colour(rgb: tuple[int, int, int]) -> str:
    """Return the colour name with the closest anchor, so no held-out pair slips in."""

    def distance(colour: str) -> float:
        anchors = COLOURS[colour]
        return min(
            sum((a - b) ** 2 for a, b in zip(rgb, anchor, strict=True)) for anchor in anchors
        )

    return min(COLOURS, key=distance)


def tower_batch(
    random: Random, size: int, recoloured: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return pixels (size, 3, SIDE, SIDE) and the labels of every question.

    A share `recoloured` of the pictures has things in any colour.
    """
    scenes = [sample_scene(random) for _ in range(size)]
    scenes = [recolour(random, s) if random.random() < recoloured else s for s in scenes]
    per_patch = [patch_labels(scene) for scene in scenes]
    labels = {
        name: torch.from_numpy(numpy.stack([one[name] for one in per_patch]))
        for name in per_patch[0]
    }
    backgrounds = list(BACKGROUNDS)
    labels["background"] = torch.tensor([backgrounds.index(s.background) for s in scenes])
    labels["count"] = torch.tensor([len(s.things) for s in scenes])
    labels["layout"] = torch.tensor([LAYOUTS.index(s.layout) for s in scenes])
    return torch.from_numpy(numpy.stack([to_pixels(s) for s in scenes])), labels


class TowerHeads(nn.Module):
    """One linear question each; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {**PATCH_QUESTIONS, **PICTURE_QUESTIONS, "seen": 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})
        self.norm = nn.LayerNorm(width)

    def forward(self, output) -> dict[str, torch.Tensor]:
        """Answer from a CLIPVisionModel's output (with hidden states)."""
        patches = self.norm(output.hidden_states[-2][:, 1:])  # (b, GRID * GRID, width)
        picture = output.pooler_output  # (b, width)
        return {
            name: head(picture if name in PICTURE_QUESTIONS else patches)
            for name, head in self.heads.items()
        }


def tower_loss(answers: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum the cross entropies of all questions."""
    seen = labels["seen"].float()
    loss = functional.binary_cross_entropy_with_logits(answers["seen"][..., 0], seen)
    for name in PATCH_QUESTIONS:
        if (labels[name] == IGNORE).all():  # every thing of a small batch was recoloured
            continue
        loss = loss + functional.cross_entropy(answers[name].flatten(0, 1), labels[name].flatten())
    for name in PICTURE_QUESTIONS:
        loss = loss + 0.5 * functional.cross_entropy(answers[name], labels[name])
    return loss


def train_tower(
    tower: CLIPVisionModel,
    *,
    steps: int,
    stage: str = "tower",
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, float, dict[str, float]], None],
) -> None:
    """Run one stage of STAGES in place; `progress(step, loss, accuracies)` each step."""
    recoloured, learning_rate = STAGES[stage]
    random = Random(f"{stage} {seed}")
    torch.manual_seed(seed)
    heads = TowerHeads(tower.config.hidden_size)
    optimiser = optimisers([tower, heads], learning_rate)
    schedule = Schedule(optimiser, steps)
    for step in range(steps):
        pixels, labels = tower_batch(random, batch_size, recoloured)
        answers = heads(tower(pixel_values=pixels, output_hidden_states=True))
        loss = tower_loss(answers, labels)
        schedule.step(loss)
        progress(step, loss.item(), _accuracies(answers, labels))


def _accuracies(answers: dict, labels: dict) -> dict[str, float]:
    scores = {}
    for name in (*PATCH_QUESTIONS, *PICTURE_QUESTIONS):
        known = labels[name] != IGNORE
        hits = answers[name].argmax(-1)[known] == labels[name][known]
        scores[name] = hits.float().mean().item()
    return scores
