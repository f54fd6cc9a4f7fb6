"""From a tower that sees to a model that answers: the five stages of language.

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

The pictures and questions come packed from `packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .optimise import Precision, Schedule, optimisers
from .packing import WEIGHTS, Batch, Encoder, pack
from .recolour import recolour
from .scenes import sample_scene
from .tower import IGNORE

POLISH_WEIGHTS = {**WEIGHTS, "describe": 30, "background": 20, "relation": 20, "shape": 20}


def answer_loss(
    model: LlavaForConditionalGeneration, batch: Batch, *, sparing: bool = False
) -> torch.Tensor:
    """Return the weighted mean of the cross entropy of the answers' tokens.

    `sparing` leaves the batch's `barred` words out of it.
    """
    embedded = model.get_input_embeddings()(batch.ids)  # (b, n, width)
    if batch.pixels is not None:
        with torch.no_grad():
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


# By stage: learning rate, share of recoloured pictures, how often each kind is asked.
# Things in any colour make the language model too read shapes without leaning on the
# colours that it has seen them in.
STAGES = {
    "speak": (2e-3, 0.0, WEIGHTS),
    "align": (2e-3, 0.3, WEIGHTS),
    "tune": (2e-3, 0.3, WEIGHTS),
    "polish": (1.5e-3, 0.45, POLISH_WEIGHTS),
    "spare": (7e-4, 0.45, POLISH_WEIGHTS),
}


def trainable(model: LlavaForConditionalGeneration, stage: str) -> list[nn.Module]:
    """Freeze what `stage` leaves alone and return the modules that learn."""
    projector = model.model.multi_modal_projector
    language = [model.model.language_model, model.lm_head]
    both = [projector, *language]
    learning = {"speak": language, "align": [projector]}.get(stage, both)
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
    schedule = Schedule(optimisers(trainable(model, stage), learning_rate), steps)
    for step in range(steps):
        scenes = [sample_scene(random) for _ in range(batch_size)]
        if share:
            scenes = [recolour(random, s) if random.random() < share else s for s in scenes]
        batch = pack(random, encoder, scenes, seeing=stage != "speak", weights=weights)
        with precision(model.device):
            loss = answer_loss(model, batch.to(model.device), sparing=stage == "spare")
        schedule.step(loss)
        progress(step, loss.item())
