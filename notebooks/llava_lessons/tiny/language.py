"""From a tower that sees to a model that answers: the six stages of language.

1. "speak": the language model alone reads a scene's caption and answers questions
   about it, as LLaVA starts from a model that can already talk.
2. "align": LLaVA's stage 1. Pictures take the caption's place; only the projector
   learns.
3. "tune": LLaVA's stage 2. Projector and language model learn together; the tower
   stays as it is.
4. "polish": the same for a short while, with more of what "tune" asks too rarely:
   captions, backgrounds, relations.
5. "spare": a little more, slowly, in which the words that are held out are no wrong
   answers (`held_out.py`).
6. "decline": pictures that are none of the drawn world's (`outside.py`) come among the
   others, and whatever is asked of them the answer is that the model cannot tell. The tower has
   never seen such pictures, so it learns too, more slowly than the rest.

The pictures and questions come packed from `packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .optimise import Precision, Schedule, optimisers
from .outside import Outside, sample_outside
from .packing import WEIGHTS, Batch, Encoder, as_it_may_come, pack
from .recolour import recolour
from .scenes import Scene, sample_scene
from .tower import IGNORE

POLISH_WEIGHTS = {**WEIGHTS, "describe": 30, "background": 20, "relation": 20, "shape": 20}
DECLINE_WEIGHTS = {**WEIGHTS, "describe": 14, "mixture": 18, "side": 22, "relation": 16}


def answer_loss(
    model: LlavaForConditionalGeneration, batch: Batch, *, sparing: bool = False
) -> torch.Tensor:
    """Return the weighted mean of the cross entropy of the answers' tokens.

    `sparing` leaves the batch's `barred` words out of it.
    """
    embedded = model.get_input_embeddings()(batch.ids)  # (b, n, width)
    if batch.pixels is not None:
        tower = model.model.vision_tower
        seen = tower(pixel_values=batch.pixels, output_hidden_states=True)
        layer = model.config.vision_feature_layer
        projected = model.model.multi_modal_projector(seen.hidden_states[layer][:, 1:])
        places = (batch.ids == model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(places, projected.to(embedded.dtype))
    output = model.model.language_model(
        inputs_embeds=embedded,
        attention_mask=attention_mask(model, batch.mask),
        position_ids=batch.positions,
        use_cache=False,
    )
    targets = batch.labels[:, 1:]
    answered = targets != IGNORE
    logits = model.lm_head(output.last_hidden_state[:, :-1][answered])
    logits = logits.float()
    if sparing:
        logits = without(logits, batch.barred[:, 1:][answered])
    losses = functional.cross_entropy(logits, targets[answered], reduction="none")
    weights = batch.weights[:, 1:][answered]
    return (losses * weights).sum() / weights.sum()


def without(logits: torch.Tensor, barred: torch.Tensor) -> torch.Tensor:
    """Return logits, (m, words), in which the `barred` words, (m, k), take no part; -1 is none."""
    rows, places = (barred >= 0).nonzero(as_tuple=True)
    return logits.index_put((rows, barred[rows, places]), logits.new_tensor(-1e4))


def attention_mask(model: LlavaForConditionalGeneration, may_see: torch.Tensor) -> torch.Tensor:
    """Return who may see whom, (b, 1, n, n), in the form that the model's attention takes.

    "eager" adds the mask to the scores, and truth values, added, would hide nothing.
    """
    if model.model.language_model.config._attn_implementation != "eager":
        return may_see
    lowest = torch.finfo(model.dtype).min
    return torch.zeros_like(may_see, dtype=model.dtype).masked_fill(~may_see, lowest)


# Shares of "decline": pictures from outside; of the others, empty ones and ones of a single thing.
OUTSIDE, EMPTY, SINGLE = 0.3, 0.08, 0.22
TOWER_RATE = 0.3  # of the others' learning rate, where the tower learns with them

# By stage: learning rate, share of recoloured pictures, how often each kind is asked.
# Things in any colour make the language model too read shapes without leaning on the
# colours that it has seen them in.
STAGES = {
    "speak": (2e-3, 0.0, WEIGHTS),
    "align": (2e-3, 0.3, WEIGHTS),
    "tune": (2e-3, 0.3, WEIGHTS),
    "polish": (1.5e-3, 0.45, POLISH_WEIGHTS),
    "spare": (7e-4, 0.45, POLISH_WEIGHTS),
    "decline": (7e-4, 0.25, DECLINE_WEIGHTS),
}


def trainable(model: LlavaForConditionalGeneration, stage: str) -> list[nn.Module]:
    """Freeze what `stage` leaves alone and return the modules that learn."""
    projector = model.model.multi_modal_projector
    language = [model.model.language_model, model.lm_head]
    both = [projector, *language]
    learning = {"speak": language, "align": [projector]}.get(stage, both)
    if stage == "decline":
        learning = [*both, model.model.vision_tower]
    model.requires_grad_(False)
    for module in learning:
        module.requires_grad_(True)
    return learning


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    stage: str,
    *,
    steps: int,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision,
    progress: Callable[[int, float], None],
    weights: dict[str, int] | None = None,
    recoloured: float | None = None,
) -> None:
    """Run one stage in place; `progress(step, loss)` after each step.

    `weights`, how often each kind is asked, and `recoloured`, the share of pictures in any colour,
    are the stage's own unless given.
    """
    learning_rate, share, usual = STAGES[stage]
    share, weights = share if recoloured is None else recoloured, weights or usual
    random = Random(f"{stage} {seed}")
    encoder = Encoder(tokenizer)
    tower = model.model.vision_tower
    learning = trainable(model, stage)
    rest = optimisers([each for each in learning if each is not tower], learning_rate)
    slow = optimisers([tower], TOWER_RATE * learning_rate) if tower in learning else []
    schedule = Schedule([*rest, *slow], steps)
    last = stage == "decline"
    for step in range(steps):
        scenes = [_picture(random, share, outside=last) for _ in range(batch_size)]
        options = {"seeing": stage != "speak", "weights": weights}
        if last:
            options["to_pixels"] = partial(as_it_may_come, random)
        batch = pack(random, encoder, scenes, **options)
        with precision(model.device):
            loss = answer_loss(model, batch.to(model.device), sparing=last or stage == "spare")
        schedule.step(loss)
        progress(step, loss.item())


def _picture(random: Random, recoloured: float, *, outside: bool) -> Scene | Outside:
    """Draw up a scene, or with `outside` sometimes an empty one or a picture that is none."""
    count = None
    if outside:
        if random.random() < OUTSIDE:
            return sample_outside(random)
        rest = 1 - EMPTY - SINGLE
        count = random.choices((0, 1, None), weights=(EMPTY, SINGLE, rest))[0]
    scene = sample_scene(random, count=count)
    return recolour(random, scene) if recoloured and random.random() < recoloured else scene
