"""The two layouts in which LLaVA is published, made into one thing to read: a `Source`.

In the transformers layout all stands in one place; in the LLaVA authors' own the vision tower has
a place of its own, which the config names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..errors import LlavaNbError, ModelError, plain
from ..processor import (
    Spelling,
    build_processor,
    build_tokenizer,
    prompt_style,
    read_spelling,
)
from . import original
from .find import (
    Checkpoint,
    WeightFiles,
    names_on_hub,
    unreachable,
    weight_files,
    weight_names,
)
from .refusals import CLASSES, check_parts, check_stored, is_original, stored_quantization

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_LAYERS = ("vision_feature_layers", "vision_feature_layer")


@dataclass(frozen=True)
class Source:
    """A model before its weights are read.

    `places` are the checkpoint and, where it is apart, the tower; `files` their weight files, those
    that are known. `tokenizer` and `spelling` are None for a model that transformers' processor
    reads as it is; `pixels` is the folder with the image processor's settings, `folder` that with
    everything else.
    """

    raw: dict[str, Any]
    config: PretrainedConfig
    places: tuple[Checkpoint, ...]
    files: tuple[WeightFiles, ...]
    folder: Path
    pixels: Path
    tokenizer: PreTrainedTokenizerBase | None = None
    spelling: Spelling | None = None

    def processor(self) -> ProcessorMixin:
        """Return tokenizer and image processor, joined. Raises ModelError if they are not there."""
        try:
            return build_processor(
                str(self.folder),
                self.config,
                pixels=str(self.pixels),
                tokenizer=self.tokenizer,
                spelling=self.spelling,
            )
        except LlavaNbError:
            raise
        except Exception as error:  # tokenizers and transformers have a dozen kinds
            raise ModelError(unreachable(self.places[0], error)) from error

    def style(self, processor: ProcessorMixin) -> str | None:
        """Return the conversation that the model is prompted in; None for its own template."""
        return self.spelling.style if self.spelling else prompt_style(processor, self.config)

    @property
    def is_original(self) -> bool:
        """Whether it is in the LLaVA authors' own layout."""
        return is_original(self.raw)


def find_source(checkpoint: Checkpoint, raw: dict[str, Any], access: dict[str, Any]) -> Source:
    """Return the source of `checkpoint`, whose config.json is `raw`; fetches small files only.

    `access` is {"token", "cache_dir"}, as hub functions take them. Raises ModelError if something
    is missing, cannot be fetched, describes no model, or is stored in 4 or 8 bits in other parts
    than the language model.
    """
    folder = _fetch(checkpoint, SMALL_FILES, access)
    files = _weight_files(checkpoint, access)
    if not files:
        names = [] if checkpoint.is_folder else names_on_hub(checkpoint.source, access["token"])
        check_parts(checkpoint.name, names or [each.name for each in folder.iterdir()])
    stored = stored_quantization(raw)
    if stored:
        check_stored(checkpoint.name, raw["quantization_config"], stored, weight_names(folder))
    if not is_original(raw):
        try:
            config = build_config(raw)
        except Exception as error:  # transformers checks the numbers with errors of its own
            raise ModelError(
                f"The config.json of {checkpoint.name} describes no model that transformers can "
                f"build ({plain(error)}). Fetch it again."
            ) from error
        spelling = Spelling.from_mark(raw)
        return Source(raw, config, (checkpoint,), files, folder, folder, spelling=spelling)
    tower = find_tower(checkpoint, raw["mm_vision_tower"])
    tower_folder = _fetch(tower, SMALL_FILES, access)
    spelling = read_spelling(folder, raw, checkpoint.name)
    tokenizer = build_tokenizer(folder, spelling)
    places = (checkpoint,)
    if not raw.get("unfreeze_mm_vision_tower"):  # else its weights are in the shards
        places, files = (checkpoint, tower), files + _weight_files(tower, access)
    config = original.build_config(raw, tower_folder, tokenizer, spelling)
    return Source(raw, config, places, files, folder, tower_folder, tokenizer, spelling)


def _weight_files(place: Checkpoint, access: dict[str, Any]) -> tuple[WeightFiles, ...]:
    """Return the weight files of a place as a tuple of one, or of none where nothing is told."""
    files = weight_files(place.source, is_folder=place.is_folder, **access)
    return (files,) if files else ()


def network_class(config: PretrainedConfig) -> Any:
    """Return transformers' class of the network that a config describes."""
    return getattr(transformers, f"{CLASSES[config.model_type]}ForConditionalGeneration")


def build_config(raw: dict[str, Any]) -> PretrainedConfig:
    """Return the config that a config.json in the transformers layout describes.

    ViP-LLaVA reads several layers of its tower: `vision_feature_layers` in older versions of
    transformers and in published files, which have beside it a `vision_feature_layer` with one
    number that never counted; newer versions know only the latter name. Whether LLaVA-OneVision's
    head is its embeddings is told by the language model's part alone, which older versions do not
    look at; they would miss the head.
    """
    raw, kind = dict(raw), raw["model_type"]
    given = [raw.pop(key, None) for key in _LAYERS if kind == "vipllava"]
    config = getattr(transformers, f"{CLASSES[kind]}Config").from_dict(raw)
    layers = next((each for each in given if isinstance(each, (list, tuple))), None)
    if layers is not None:
        config.vision_feature_layers = list(layers)
    if kind == "llava_onevision" and config.text_config.tie_word_embeddings:
        config.tie_word_embeddings = True
    return config


def config_alone(checkpoint: Checkpoint, raw: dict[str, Any]) -> PretrainedConfig:
    """Return the sizes that a config.json in either layout tells, as a config; fetches nothing.

    In the authors' layout the vision tower has a config of its own. Where its folder is not at hand
    it counts as LLaVA-1.5's, which transformers' config begins with: towers are small beside the
    language model.
    """
    if not is_original(raw):
        return build_config(raw)
    vision = None
    try:
        tower = find_tower(checkpoint, raw["mm_vision_tower"])
        if tower.is_folder:
            vision = transformers.CLIPVisionConfig.from_pretrained(tower.source)
    except (ModelError, OSError):
        pass
    text = transformers.LlamaConfig.from_dict({**raw, "model_type": "llama"})
    tied = bool(raw.get("tie_word_embeddings", False))
    return transformers.LlavaConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied
    )


def find_tower(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return where the vision tower is that a config in the original layout names.

    A folder of that name beside the checkpoint or in it comes first, then the working directory,
    as in the original, then the hub. Raises ModelError if it is nowhere.
    """
    about, beside = f"the vision tower {name}", []
    if checkpoint.is_folder:
        folder = Path(checkpoint.source)
        ends = (name, Path(name).name)
        beside = [place / end for end in ends for place in (folder.parent, folder)]
    for place in (*beside, Path(name).expanduser()):
        if (place / "config.json").is_file():
            return Checkpoint(about, str(place), checkpoint.reason, True)
    if name.count("/") == 1 and all(name.split("/")):
        return Checkpoint(about, name, checkpoint.reason, False)
    where = f"there is no such folder in {beside[0].parent}" if beside else "it is no hub id"
    raise ModelError(
        f"The config.json of {checkpoint.name} names its vision tower {name!r}, and {where}. "
        "Without it the model would see at random: put the tower's folder beside the checkpoint, "
        'or write its hub id into config.json: "mm_vision_tower": '
        '"openai/clip-vit-large-patch14-336".'
    )


def weight_paths(source: Source, place: Checkpoint, access: dict[str, Any]) -> list[Path]:
    """Return the weight files of `place` on this machine, fetched if need be.

    Where the hub could not be asked for names, what the cache has is taken.
    """
    known = next((each for each in source.files if each.source == place.source), None)
    if known:
        folder = _fetch(place, known.names, access)
        return [folder / name for name in known.names]
    failure: ModelError | None = None
    for pattern in WEIGHTS:  # one at a time: a cache that lacks what is asked for raises
        try:
            paths = sorted(_fetch(place, [pattern], access).glob(pattern))
        except ModelError as error:
            failure = error
            continue
        if paths:
            return paths
    raise failure or ModelError(
        f"No weights of {place.name} were found in {place.source}: expected "
        f"{' or '.join(WEIGHTS)}. Check the spelling and the network."
    )


def _fetch(place: Checkpoint, patterns: Any, access: dict[str, Any]) -> Path:
    """Return a folder with the files of such names, fetched with no token but ours.

    Given a hub id, transformers' tokenizers look for a token of their own accord, and in Colab
    that asks the person for a secret.
    """
    if place.is_folder:
        return Path(place.source)
    try:
        return Path(snapshot_download(place.source, allow_patterns=list(patterns), **access))
    except (OSError, ValueError) as error:
        raise ModelError(unreachable(place, error)) from error
