"""The two layouts in which LLaVA is published, made into one thing to read: a `Source`.

In the LLaVA authors' own layout config.json says "llava", and transformers takes it for its own: it
builds a model of standard size, finds no weight that fits, fills all with random numbers and raises
nothing. So the config is built here from the file's numbers, the weights get the names that
transformers uses, and names and shapes are compared before anything is read. The vision tower has a
place of its own, which the config names. The names follow llava/model/llava_arch.py and
llava/model/multimodal_encoder of haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..errors import LlavaNbError, ModelError, plain
from ..processor import (
    MARK,
    Spelling,
    build_processor,
    build_tokenizer,
    prompt_style,
    read_spelling,
)
from .find import Checkpoint, WeightFiles, names_on_hub, unreachable, weight_files, weight_names
from .refusals import CLASSES, check_parts, check_stored, is_original, stored_quantization

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_LAYERS = ("vision_feature_layers", "vision_feature_layer")


@dataclass(frozen=True)
class Source:
    """A model before its weights are read."""

    raw: dict[str, Any]  # config.json
    config: PretrainedConfig
    places: tuple[Checkpoint, ...]  # the checkpoint and, where it is apart, the tower
    files: tuple[WeightFiles, ...]  # of those places, as far as they are known
    folder: Path  # with the small files
    pixels: Path  # with the image processor's settings
    # None for a model that transformers' processor reads as it is:
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

    `access` is {"token", "cache_dir"}, as hub functions take them. Raises ModelError.
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
    config = original_config(raw, tower_folder, tokenizer, spelling)
    return Source(raw, config, places, files, folder, tower_folder, tokenizer, spelling)


def _weight_files(place: Checkpoint, access: dict[str, Any]) -> tuple[WeightFiles, ...]:
    files = weight_files(place.source, is_folder=place.is_folder, **access)
    return (files,) if files else ()


def network_class(config: PretrainedConfig) -> Any:
    """Return transformers' class of the network that a config describes."""
    return getattr(transformers, f"{CLASSES[config.model_type]}ForConditionalGeneration")


def build_config(raw: dict[str, Any]) -> PretrainedConfig:
    """Return the config that a config.json in the transformers layout describes."""
    raw, kind = dict(raw), raw["model_type"]
    # ViP-LLaVA reads several layers of its tower: `vision_feature_layers` in older versions of
    # transformers and in published files, which have beside it a `vision_feature_layer` with one
    # number that never counted; newer versions know only the latter name.
    given = [raw.pop(key, None) for key in _LAYERS if kind == "vipllava"]
    config = getattr(transformers, f"{CLASSES[kind]}Config").from_dict(raw)
    layers = next((each for each in given if isinstance(each, (list, tuple))), None)
    if layers is not None:
        config.vision_feature_layers = list(layers)
    # Told by the language model's part alone, which older versions do not look at.
    if kind == "llava_onevision" and config.text_config.tie_word_embeddings:
        config.tie_word_embeddings = True
    return config


def config_alone(checkpoint: Checkpoint, raw: dict[str, Any]) -> PretrainedConfig:
    """Return the sizes that a config.json in either layout tells, as a config; fetches nothing.

    A tower of the authors' layout whose folder is not at hand counts as LLaVA-1.5's, which
    transformers' config begins with: towers are small beside the language model.
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

    First beside the checkpoint or in it, then the working directory, as in the original, then the
    hub. Raises ModelError if it is nowhere.
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


# --- the authors' own layout ---

TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
# In this order; the first that fits is taken.
_NAMES = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", TOWER),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    (r"^lm_head\.", "lm_head."),
)
_PROJECTORS = {
    "mlp2x_gelu": (
        (r"^model\.mm_projector\.0\.", f"{PROJECTOR}linear_1."),
        (r"^model\.mm_projector\.2\.", f"{PROJECTOR}linear_2."),
    ),
    "linear": ((r"^model\.mm_projector\.(weight|bias)$", rf"{PROJECTOR}linear_1.\1"),),
}
# Buffers that old versions saved, and the half of CLIP that reads captions.
_NOT_WEIGHTS = re.compile(r"\.rotary_emb\.inv_freq$|\.embeddings\.position_ids$")


def projector_type(raw: dict[str, Any]) -> str:
    """Return "linear" or "mlp2x_gelu"; LLaVA 1.0 knew only the first and did not say so."""
    return raw.get("mm_projector_type") or "linear"


def original_config(
    raw: dict[str, Any], tower: Path, tokenizer: PreTrainedTokenizerBase, spelling: Spelling
) -> transformers.LlavaConfig:
    """Return the config of the model that a config.json in the original layout describes.

    `tower` is the folder of the vision tower (a whole CLIP or its vision half). Raises ModelError
    if it is not a CLIP, or not of the width that `raw` says.
    """
    vision = _vision_config(tower)
    if raw.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise ModelError(
            f"The vision tower in {tower} is {vision.hidden_size} wide, and the checkpoint was "
            f"trained with one of {raw['mm_hidden_size']}: it is another tower. The config names "
            f"{raw.get('mm_vision_tower')!r}."
        )
    whole = raw.get("mm_vision_select_feature") == "cls_patch"
    known = {*transformers.LlamaConfig().to_dict(), "rope_theta", "rope_scaling"}
    known -= {"architectures", "model_type", "transformers_version", "torch_dtype", "dtype"}
    text = {key: value for key, value in raw.items() if key in known and value is not None}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=vision,
        vision_feature_layer=raw.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if whole else "default",
        projector_hidden_act="gelu" if projector_type(raw) == "mlp2x_gelu" else "linear",
        image_token_index=tokenizer.convert_tokens_to_ids(spelling.token),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + whole,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        **{MARK: asdict(spelling)},  # so that a model saved in the other layout keeps it
    )
    for name in ("bos_token_id", "eos_token_id"):
        setattr(config, name, raw.get(name, getattr(tokenizer, name)))
    config.pad_token_id = config.eos_token_id
    return config


def _vision_config(tower: Path) -> transformers.CLIPVisionConfig:
    try:
        raw, _ = transformers.CLIPVisionConfig.get_config_dict(tower)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The config.json of the vision tower in {tower} cannot be read ({error})."
        ) from error
    if raw.get("model_type") not in ("clip", "clip_vision_model"):
        raise ModelError(
            f"The vision tower in {tower} is of type {raw.get('model_type')!r}; LLaVA-1.x uses a "
            'CLIP, such as "openai/clip-vit-large-patch14-336".'
        )
    return transformers.CLIPVisionConfig.from_dict(raw.get("vision_config") or raw)


def with_stock_names(
    raw: dict[str, Any],
    config: transformers.LlavaConfig,
    weights: dict[str, Any],
    tower: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the weights under transformers' names, unread, and from_pretrained's loading info.

    `weights` are the checkpoint's and `tower` those of a whole CLIP or of its vision half, by name;
    as in the original, a tower in the checkpoint counts only if `unfreeze_mm_vision_tower`.
    """
    renamed = {}
    for name, value in weights.items():
        for pattern, new in (*_NAMES, *_PROJECTORS[projector_type(raw)]):
            if re.search(pattern, name):
                name = re.sub(pattern, new, name)
                break
        renamed[name] = value
    if not raw.get("unfreeze_mm_vision_tower"):
        renamed = {name: value for name, value in renamed.items() if not name.startswith(TOWER)}
        for name, value in tower.items():
            if name.startswith("vision_model."):
                renamed[TOWER + name.removeprefix("vision_model.")] = value
    renamed = {name: value for name, value in renamed.items() if not _NOT_WEIGHTS.search(name)}
    if projector_type(raw) == "linear":  # transformers' projector always has a second layer
        width = config.text_config.hidden_size
        renamed[f"{PROJECTOR}linear_2.weight"] = torch.eye(width, dtype=torch.float16)
        renamed[f"{PROJECTOR}linear_2.bias"] = torch.zeros(width, dtype=torch.float16)
    expected = expected_shapes(config)
    level = f"{TOWER}vision_model."  # some versions of transformers have it between
    if any(name.startswith(level) for name in expected):
        pattern = f"^{re.escape(TOWER)}"
        renamed = {re.sub(pattern, level, name): value for name, value in renamed.items()}
    both = renamed.keys() & expected.keys()
    shapes = {  # of tensors, and of slices that have not been read
        name: tuple(value.get_shape() if hasattr(value, "get_shape") else value.shape)
        for name, value in renamed.items()
    }
    return renamed, {
        "missing_keys": sorted(expected.keys() - both),
        "unexpected_keys": sorted(renamed.keys() - both),
        "mismatched_keys": sorted(name for name in both if shapes[name] != expected[name]),
    }


def expected_shapes(config: transformers.LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of the model, from a model without memory."""
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
