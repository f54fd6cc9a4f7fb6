"""Before anything else, the vision tower learns to see.

LLaVA starts from a CLIP tower that has read 400 million captions. Ours, far too
small for that, is taught what each patch shows: whether a thing covers it, which
shape, colour and size the thing has, and whether it comes first, second or third.
These questions are put to the last layer but one, which LLaVA reads. The last layer
answers for the whole picture (background, how many things, row or column), as
CLIP's last layer answers for the whole caption. The heads are thrown away after.

More than half of the pictures are recoloured at random and judged by shape alone: this
is what keeps shape from being read off the colour. And no thing is used to teach that its
colour rules a held-out shape out; see `tower_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModel

from .build import GRID, PADDING, PATCH, PIXEL_MEAN, PIXEL_STD, SIDE
from .optimise import Precision, Schedule, optimisers
from .recolour import barred_shapes, recolour
from .scenes import (
    BACKGROUNDS,
    COLOURS,
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
RECOLOURED = 0.6  # of the pictures
LEARNING_RATE = 2e-3
IGNORE = -100  # what cross_entropy leaves out


def to_pixels(scene: Scene) -> numpy.ndarray:
    """Draw, pad and normalise a scene: (3, SIDE, SIDE) float32.

    The same values that the model's image processor makes of `draw(scene, SIDE)`.
    """
    return pixels_of(draw(scene, SIDE))


def pixels_of(picture: Image.Image) -> numpy.ndarray:
    """Pad a picture to a square, shrink it to SIDE and normalise: (3, SIDE, SIDE) float32."""
    longer = max(picture.size)
    canvas = Image.new("RGB", (longer, longer), PADDING)
    canvas.paste(picture, ((longer - picture.width) // 2, (longer - picture.height) // 2))
    if longer != SIDE:
        canvas = canvas.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = numpy.asarray(canvas, dtype=numpy.float32) / 255
    return ((pixels - PIXEL_MEAN) / PIXEL_STD).transpose(2, 0, 1).astype(numpy.float32)


def padding_offset(scene: Scene) -> tuple[int, int]:
    """Return where the picture's corner lies on the padded square."""
    return (
        (SIDE - round(SIDE * scene.width)) // 2,
        (SIDE - round(SIDE * scene.height)) // 2,
    )


def patch_labels(scene: Scene) -> dict[str, numpy.ndarray]:
    """Return for each of the GRID x GRID patches what it shows, IGNORE if nothing.

    Also "seen", whether it shows a thing, and "barred": (GRID * GRID, shapes), the shapes
    that the thing's colour never has in training.
    """
    labels = {name: numpy.full(GRID * GRID, IGNORE) for name in PATCH_QUESTIONS}
    labels["barred"] = numpy.zeros((GRID * GRID, len(SHAPES)), dtype=bool)
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
        labels["barred"][mine] = [shape in barred_shapes(thing) for shape in SHAPES]
    labels["seen"] = best > SEEN
    return labels


def tower_batch(random: Random, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return pixels (size, 3, SIDE, SIDE) and the labels of every question."""
    scenes = [sample_scene(random) for _ in range(size)]
    scenes = [
        recolour(random, scene, freely=True) if random.random() < RECOLOURED else scene
        for scene in scenes
    ]
    per_patch = [patch_labels(scene) for scene in scenes]
    labels = {
        name: torch.from_numpy(numpy.stack([one[name] for one in per_patch]))
        for name in per_patch[0]
    }
    backgrounds = list(BACKGROUNDS)
    labels["background"] = torch.tensor(
        [IGNORE if s.backdrop else backgrounds.index(s.background) for s in scenes]
    )
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
    """Sum the cross entropies of all questions.

    A red thing is never a star in training, which is an accident of holding that pair out
    and no property of red. So the star takes no part in the loss of a red thing: the
    tower is neither shown the pair nor taught that it does not exist.
    """
    seen = labels["seen"].float()
    loss = functional.binary_cross_entropy_with_logits(answers["seen"][..., 0], seen)
    answers = {**answers, "shape": answers["shape"].masked_fill(labels["barred"], -1e4)}
    for name in (*PATCH_QUESTIONS, *PICTURE_QUESTIONS):
        if (labels[name] == IGNORE).all():  # a small batch may have been recoloured whole
            continue
        weight = 0.5 if name in PICTURE_QUESTIONS else 1.0
        classes = answers[name].shape[-1]
        loss = loss + weight * functional.cross_entropy(
            answers[name].reshape(-1, classes), labels[name].flatten()
        )
    return loss


def train_tower(
    tower: CLIPVisionModel,
    *,
    steps: int,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision,
    progress: Callable[[int, float, dict[str, float]], None],
) -> None:
    """Train the tower in place; `progress(step, loss, accuracies)` after each step."""
    random = Random(f"tower {seed}")
    torch.manual_seed(seed)
    heads = TowerHeads(tower.config.hidden_size).to(tower.device)
    optimiser = optimisers([tower, heads], LEARNING_RATE)
    schedule = Schedule(optimiser, steps)
    for step in range(steps):
        pixels, labels = tower_batch(random, batch_size)
        labels = {name: values.to(tower.device) for name, values in labels.items()}
        with precision(tower.device):
            output = tower(pixel_values=pixels.to(tower.device), output_hidden_states=True)
            answers = {name: each.float() for name, each in heads(output).items()}
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
