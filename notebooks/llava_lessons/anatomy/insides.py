"""One question followed through the model: its own tensors, taken while it computes.

Forward hooks keep what the layers give, so nothing of the model is written a second time here.
The answer is made by `Llava.ask`; then the model reads picture, prompt and answer in one go, which
gives for each word of the answer the same numbers as when it was chosen.
It follows LLaVA-1.5 and its like, which see a picture whole, as one grid of patches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from llava_nb.errors import ModelError, PromptError
from llava_nb.images import open_image
from llava_nb.inference.answer import Answer
from llava_nb.processor import encode

if TYPE_CHECKING:
    from llava_nb.inference.llava import Llava


@dataclass(frozen=True)
class Token:
    """A piece of text and its id. `kind`: "before" or "after" the picture, "picture", "answer"."""

    text: str
    id: int
    kind: str


@dataclass(frozen=True)
class Insides:
    """What the model computed for one question. All tensors are float32 and on the CPU.

    `picture` is as it was opened, `seen` what the vision tower is given, `grid` how many patches
    lie along a side. `features` are the tower's, one (patches, width) for its input and for each
    layer; `layer` is the place among them that the model reads, `projected` (patches, hidden) what
    the projector makes of it. `tokens` are the language model's input and the answer.
    `attention` is (words, layers, heads, tokens): where each of the answer's words looked as it
    was chosen. `logits` (words, vocabulary) are what it was chosen by. `ids` (1, tokens)
    and `pixels` (1, 3, side, side) are what the model was given; `spell` gives an id's text.
    """

    picture: Image.Image
    seen: Image.Image
    answer: Answer
    grid: int
    layer: int
    tokens: tuple[Token, ...] = field(repr=False)
    features: tuple[torch.Tensor, ...] = field(repr=False)
    projected: torch.Tensor = field(repr=False)
    attention: torch.Tensor = field(repr=False)
    logits: torch.Tensor = field(repr=False)
    ids: torch.Tensor = field(repr=False)
    pixels: torch.Tensor = field(repr=False)
    spell: Callable[[int], str] = field(repr=False)

    @property
    def words(self) -> list[str]:
        """The answer's tokens as text."""
        return [token.text for token in self.tokens if token.kind == "answer"]

    @cached_property
    def on_picture(self) -> torch.Tensor:
        """The attention that falls on patches, (words, layers, heads, grid, grid)."""
        patches = torch.tensor([token.kind == "picture" for token in self.tokens])
        return self.attention[..., patches].unflatten(-1, (self.grid, self.grid))

    def place(self, word: str | int) -> int:
        """Find a word of the answer, by its place or its text. Raises PromptError."""
        if isinstance(word, int) and -len(self.words) <= word < len(self.words):
            return word % len(self.words)
        found = [at for at, each in enumerate(self.words) if each.strip() == str(word).strip()]
        if not found:
            said = ", ".join(f'"{each.strip()}"' for each in self.words)
            raise PromptError(f'The answer has no token "{word}". It has: {said}.')
        return found[0]


def look_inside(llava: Llava, image: Any, prompt: str, *, max_new_tokens: int = 40) -> Insides:
    """Ask, then read picture, prompt and answer once more and keep what the layers give.

    Raises what `Llava.ask` raises, and ModelError for a model that sees pictures in tiles.
    """
    config = llava.engine.network.config
    if config.model_type != "llava":
        raise ModelError(
            f"look_inside() follows models that see a picture whole, and {llava.name} is "
            f'"{config.model_type}". Take load("llava-1.5-7b") or load("tiny").'
        )
    picture = open_image(image)
    answer = llava.ask(picture, prompt, max_new_tokens=max_new_tokens)
    inputs = encode(llava.processor, [picture], [llava.prompt_text(prompt)], llava.spelling)
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer.ids])], dim=1)
    pixels = inputs["pixel_values"].to(llava.model.dtype)
    first = inputs["input_ids"].shape[1] - 1  # its output is the answer's first word
    kept = _run(llava, ids, pixels, first)
    spell = partial(_spell, llava.processor.tokenizer)
    return Insides(
        picture=picture,
        seen=_as_picture(llava, pixels[0]),
        answer=answer,
        grid=config.vision_config.image_size // config.vision_config.patch_size,
        layer=config.vision_feature_layer % len(kept["features"]),
        tokens=_tokens(ids[0].tolist(), config.image_token_id, len(answer.ids), spell),
        ids=ids,
        pixels=pixels,
        spell=spell,
        **kept,
    )


def _run(llava: Llava, ids: torch.Tensor, pixels: torch.Tensor, first: int) -> dict[str, Any]:
    """Run the model once under hooks; return what they kept, of the answer's words alone."""
    kept: dict[str, Any] = {"features": [], "attention": []}
    device = llava.device

    def work() -> None:
        with torch.no_grad(), _hooks(llava.engine.network.model, kept, first):
            logits = llava.engine.network(
                input_ids=ids.to(device), pixel_values=pixels.to(device), use_cache=False
            ).logits
        kept["logits"] = _to_cpu(logits[0, first:-1])

    llava.engine.guarded(work, ids.shape[1])
    kept["features"] = tuple(kept["features"])
    kept["attention"] = torch.stack(kept["attention"], dim=1)
    return kept


@contextlib.contextmanager
def _hooks(model: Any, kept: dict[str, Any], first: int) -> Iterator[None]:
    """Keep what tower, projector and attention give while the block runs."""

    def keep_input(_module: Any, inputs: tuple) -> None:
        kept["features"].append(_to_cpu(inputs[0][0, 1:]))  # the class token left out

    def keep_features(_module: Any, _inputs: tuple, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        kept["features"].append(_to_cpu(output[0, 1:]))

    def keep_projected(_module: Any, _inputs: tuple, output: Any) -> None:
        kept["projected"] = _to_cpu(output[0])

    def keep_attention(_module: Any, _inputs: tuple, output: tuple) -> None:
        weights = output[1][0, :, first:-1]  # (heads, words, tokens)
        kept["attention"].append(_to_cpu(weights).transpose(0, 1))

    layers = tower_layers(model.vision_tower)
    hooks = [layers[0].register_forward_pre_hook(keep_input)]
    hooks += [layer.register_forward_hook(keep_features) for layer in layers]
    hooks += [model.multi_modal_projector.register_forward_hook(keep_projected)]
    language = model.language_model
    hooks += [each.self_attn.register_forward_hook(keep_attention) for each in language.layers]
    before = language.config._attn_implementation
    try:
        language.set_attn_implementation("eager")  # the others never have the weights as such
        yield
    finally:
        language.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def tower_layers(tower: Any) -> list[Any]:
    """Return the vision tower's layers, wherever this version of transformers has them."""
    return list(getattr(tower, "vision_model", tower).encoder.layers)


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().cpu()


def _as_picture(llava: Llava, pixels: torch.Tensor) -> Image.Image:
    """Undo the normalisation of pixels, (3, side, side)."""
    settings = llava.processor.image_processor
    mean, std = (
        torch.tensor(each)[:, None, None] for each in (settings.image_mean, settings.image_std)
    )
    levels = (pixels.float() * std + mean).clamp(0, 1) * 255
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).numpy())


def _tokens(
    ids: list[int], picture: int, answered: int, spell: Callable[[int], str]
) -> tuple[Token, ...]:
    """Spell each id and say what it belongs to."""
    last, begins = max(at for at, each in enumerate(ids) if each == picture), len(ids) - answered
    found = []
    for at, number in enumerate(ids):
        kind = "answer" if at >= begins else "after" if at > last else "before"
        found.append(Token(spell(number), number, "picture" if number == picture else kind))
    return tuple(found)


def _spell(tokenizer: Any, number: int) -> str:
    """The text of one token; Llama's tokenizer drops the space that one begins with."""
    text = tokenizer.decode([number])
    begins = tokenizer.convert_ids_to_tokens(number).startswith("\u2581")
    return f" {text.lstrip()}" if begins else text
