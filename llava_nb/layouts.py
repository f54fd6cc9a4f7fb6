"""The two layouts in which LLaVA is published, made into one thing to read: a `Source`.

A source is all that can be known without reading a weight: the config, the small files,
the weight files with their sizes, how prompts are spelt. In the transformers layout all
stands in one place; in the LLaVA authors' own the vision tower has a place of its own,
which the config names.

Covered: finding these places and fetching from them. Not covered: what the original's
files mean (`original.py`) and reading weights (`reading.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from . import original
from .checkpoints import Checkpoint, names_on_hub, unreachable
from .errors import LlavaNbError, ModelError, plain
from .family import build_config
from .processor import Spelling, build_processor, build_tokenizer, read_spelling
from .refusals import check_original_layout, check_parts, is_original
from .weight_files import WeightFiles, weight_files

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Source:
    """A model before its weights are read.

    `places` are the checkpoint and, where it is apart, the tower; `files` their weight
    files, those that are known. `tokenizer` and `spelling` are None for a model that
    transformers' processor reads as it is; `pixels` is the folder with the image
    processor's settings, `folder` that with everything else.
    """

    raw: dict[str, Any]
    config: PretrainedConfig
    places: tuple[Checkpoint, ...]
    files: tuple[WeightFiles, ...]
    folder: Path
    pixels: Path
    tokenizer: PreTrainedTokenizerBase | None = None
    spelling: Spelling | None = None

    @property
    def is_original(self) -> bool:
        """Whether it is in the LLaVA authors' own layout."""
        return is_original(self.raw)

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


def find_source(checkpoint: Checkpoint, raw: dict[str, Any], access: dict[str, Any]) -> Source:
    """Return the source of `checkpoint`, whose config.json is `raw`; fetches small files only.

    `access` is {"token", "cache_dir"}, as hub functions take them. Raises ModelError if
    something is missing, cannot be fetched, or is of a kind that load() does not read.
    """
    if is_original(raw):
        check_original_layout(checkpoint.name, raw)
        return _original_source(checkpoint, raw, access)
    folder = small_files(checkpoint, access)
    files = weight_files(checkpoint.source, is_folder=checkpoint.is_folder, **access)
    if files is None:
        check_parts(checkpoint.name, _all_names(checkpoint, folder, access))
    try:
        config = build_config(raw)
    except Exception as error:  # transformers checks the numbers with errors of its own
        raise ModelError(
            f"The config.json of {checkpoint.name} describes no model that transformers can build "
            f"({plain(error)}). Fetch it again."
        ) from error
    return Source(
        raw,
        config,
        (checkpoint,),
        _known(files),
        folder,
        folder,
        spelling=Spelling.from_mark(raw),
    )


def _original_source(checkpoint: Checkpoint, raw: dict[str, Any], access: dict[str, Any]) -> Source:
    folder = small_files(checkpoint, access)
    files = weight_files(checkpoint.source, is_folder=checkpoint.is_folder, **access)
    if files is None:
        check_parts(checkpoint.name, _all_names(checkpoint, folder, access))
    tower = find_tower(checkpoint, raw["mm_vision_tower"])
    tower_folder = small_files(tower, access)
    spelling = read_spelling(folder, raw, checkpoint.name)
    tokenizer = build_tokenizer(folder, spelling)
    places, known = (checkpoint,), _known(files)
    if not raw.get("unfreeze_mm_vision_tower"):  # else its weights are in the shards
        places = (checkpoint, tower)
        known += _known(weight_files(tower.source, is_folder=tower.is_folder, **access))
    config = original.build_config(raw, tower_folder, tokenizer, spelling)
    return Source(raw, config, places, known, folder, tower_folder, tokenizer, spelling)


def find_tower(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return where the vision tower is that a config in the original layout names.

    A folder of that name beside the checkpoint or in it comes first, then the working
    directory, as in the original, then the hub. Raises ModelError if it is nowhere.
    """
    about = f"the vision tower {name}"
    beside = []
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


def small_files(place: Checkpoint, access: dict[str, Any]) -> Path:
    """Return a folder with everything but the weights, fetched with no token but ours.

    Given a hub id, transformers' tokenizers look for a token of their own accord, and in
    Colab that asks the person for a secret.
    """
    return _fetch(place, list(SMALL_FILES), access)


def weight_paths(source: Source, place: Checkpoint, access: dict[str, Any]) -> list[Path]:
    """Return the weight files of `place` on this machine, fetched if need be.

    Where the hub could not be asked for names, what the cache has is taken.
    """
    known = next((each for each in source.files if each.source == place.source), None)
    if known:
        folder = _fetch(place, list(known.names), access)
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


def _fetch(place: Checkpoint, patterns: list[str], access: dict[str, Any]) -> Path:
    if place.is_folder:
        return Path(place.source)
    try:
        return Path(snapshot_download(place.source, allow_patterns=patterns, **access))
    except (OSError, ValueError) as error:
        raise ModelError(unreachable(place, error)) from error


def _known(files: WeightFiles | None) -> tuple[WeightFiles, ...]:
    return () if files is None else (files,)


def _all_names(checkpoint: Checkpoint, folder: Path, access: dict[str, Any]) -> list[str]:
    """Return the names of all files of a checkpoint without weights, as far as they are known."""
    here = [each.name for each in folder.iterdir()]
    return (
        here if checkpoint.is_folder else names_on_hub(checkpoint.source, access["token"]) or here
    )
