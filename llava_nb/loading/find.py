"""From a name to files: which model is meant, where it is, and whether all of it is there.

transformers fills missing weights with random numbers and carries on, so what can be noticed
early is noticed here.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalog import FOR_CPU, all_models, all_names, find
from ..errors import ModelError, plain
from .refusals import check_config, check_later, check_parts, stored_quantization

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Checkpoint:
    """A model to load: its name for people, where it is, and why it was chosen."""

    name: str
    source: str  # a folder or a hub id, as from_pretrained takes it
    reason: str
    is_folder: bool

    @property
    def is_for_cpu(self) -> bool:
        """Whether it is the one that `load("auto")` takes for a CPU."""
        return self.name == FOR_CPU.name

    @property
    def licence(self) -> str | None:
        """The licence that a listed model is published under, as far as it is known."""
        return {each.name: each.licence for each in all_models()}.get(self.name)

    @property
    def stamp(self) -> tuple:
        """Changes when the files of a folder change; so a stale model is never reused."""
        if not self.is_folder:
            return (self.source,)
        files = sorted(Path(self.source).iterdir())
        return (self.source, *((file.name, file.lstat().st_mtime_ns) for file in files))


def is_auto(model: object) -> bool:
    """Whether the choice is left to `load()`."""
    return isinstance(model, str) and model.strip() == "auto"


def locate(model: str | Path) -> Checkpoint:
    """Find a model by short name, hub id or folder.

    Raises ModelError if there is no such thing, with the nearest that there is.
    """
    text = _hub_id_in(text_of(model))
    if isinstance(model, str) and text.casefold() in {name.casefold() for name in all_names()}:
        found = find(text)
        if found.folder is not None:
            check_folder(found.folder)
        reason = "you asked for it by name"
        return Checkpoint(found.name, found.source, reason, found.folder is not None)
    folder = folder_of(text)
    if folder.exists():
        folder, name = _in_cache(folder)
        check_folder(folder)
        return Checkpoint(name, str(folder), "you gave this folder", True)
    text = text.rstrip("/")
    if isinstance(model, Path) or text[:1] in "./~\\" or text.count("/") > 1:
        raise ModelError(f"There is no folder {text}. {_neighbours(folder)}".strip())
    if text.count("/") == 1 and all(text.split("/")):
        return Checkpoint(text, text, "you gave this hub id", False)
    find(text)  # raises with the nearest name
    raise AssertionError("find() knows a name that all_names() does not")


def text_of(model: object) -> str:
    """Return the name or path as text, or raise ModelError: load() takes nothing else."""
    if isinstance(model, bytes) or not isinstance(model, (str, os.PathLike)):
        what = "None" if model is None else type(model).__name__
        loaded = ", which is loaded already" if hasattr(type(model), "caption_image") else ""
        raise ModelError(
            f"load() takes a short name, a hub id or a folder, not {what}{loaded}: "
            'load("auto"), load("llava-1.5-13b"), load("my/folder").'
        )
    text = os.fsdecode(os.fspath(model)).strip()
    if "\0" in text:
        raise ModelError(f"The name {plain(text)!r} has a NUL in it, which no model or folder has.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ModelError(
            f"The name {plain(text)!r} has half a character in it, which no model or folder has. "
            "Type it anew."
        ) from error
    if not text:
        raise ModelError(
            "load() was given an empty text, which names no model. "
            'Take load("auto"), load("llava-1.5-13b"), or a folder.'
        )
    return text


# --- hub ids --------------------------------------------------------------------------------------

_HUB = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<path>.*)|hf://(?P<short>.*)",
    re.IGNORECASE,
)
_NO_MODELS = ("datasets", "spaces", "collections", "models", "docs", "papers")


def _hub_id_in(text: str) -> str:
    """Return the hub id in the address of a model's page; other text as it is."""
    found = _HUB.fullmatch(text)
    if not found:
        if re.match(r"\w+://", text):
            raise ModelError(
                f"{plain(text)} is an address, and not that of a model's page on huggingface.co. "
                'load() takes a hub id ("owner/name"), such a page, a short name or a folder.'
            )
        cached = re.fullmatch(r"models--([^-/][^/]*?)--([^/]+)/?", text)
        return "/".join(cached.groups()) if cached and not Path(text).exists() else text
    path = re.split(r"[?#]", found["path"] or found["short"])[0]
    parts = [part for part in path.split("/") if part]
    if len(parts) < 2 or parts[0] in _NO_MODELS:
        raise ModelError(
            f"{plain(text)} is no model's page. One looks like "
            'https://huggingface.co/llava-hf/llava-1.5-7b-hf; load("llava-hf/llava-1.5-7b-hf") is '
            "the same."
        )
    hub_id = "/".join(parts[:2])
    if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve") and parts[3] != "main":
        raise ModelError(
            f"{plain(text)} is the page of the revision {parts[3]!r}, and load() takes the newest. "
            f'That is load("{hub_id}"); for another one, download it to a folder: '
            f'huggingface_hub.snapshot_download("{hub_id}", revision="{parts[3]}").'
        )
    return hub_id


def names_on_hub(hub_id: str, token: str | bool) -> list[str]:
    """Return the names of all files of a hub id, none where the hub does not tell."""
    return list(_sizes_on_hub(hub_id, token))


def _sizes_on_hub(hub_id: str, token: str | bool) -> dict[str, int]:
    """Return name and bytes of every file of a hub id, by one request; {} where none is told."""
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return {}
    try:
        how = {"files_metadata": True, "timeout": HUB_TIMEOUT_SECONDS}
        about = HfApi(token=token).model_info(hub_id, **how)
        return {each.rfilename: each.size or 0 for each in about.siblings or ()}
    except Exception:  # of half a dozen libraries; the download meets it again and words it
        return {}


# --- folders --------------------------------------------------------------------------------------


def folder_of(text: str) -> Path:
    """Return the path as pathlib has it. Raises ModelError for one that no system takes."""
    try:
        folder = Path(text).expanduser()
        folder.exists()  # older versions of Python raise for a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"There is no model or folder {plain(text)} ({plain(error)}).") from error
    return folder


def _in_cache(folder: Path) -> tuple[Path, str]:
    """Return the folder of the hub's cache that is meant, and its hub id for a name.

    Any other folder is given back with its own name.
    """
    # models--OWNER--NAME/snapshots/COMMIT; refs/main has the commit of the newest look at the hub.
    whole = folder.resolve()
    for place in (whole, *whole.parents[:2]):
        if not (place.name.startswith("models--") and (place / "snapshots").is_dir()):
            continue
        hub_id = _hub_id_of(place)
        if whole.parent.name == "snapshots":
            return folder, hub_id
        main, commits = place / "refs" / "main", sorted((place / "snapshots").iterdir())
        if main.is_file():
            commits = [each for each in commits if each.name == main.read_text().strip()] or commits
        if len(commits) == 1:
            return commits[0], hub_id
        raise ModelError(
            f"{folder} is the hub's cache of {hub_id} with {len(commits)} snapshots and does not "
            f'say which is the newest. Give one of its folders snapshots/..., or load("{hub_id}").'
        )
    inside = sorted(whole.glob("models--*--*/snapshots")) if whole.is_dir() else []
    if inside:
        ids = [_hub_id_of(each.parent) for each in inside]
        calls = ", ".join(f'load("{each}")' for each in ids[:4])
        raise ModelError(
            f"{folder} is the hub's cache and holds {len(ids)} models. Give one by its hub id: "
            f"{calls}."
        )
    return folder, whole.name


def _hub_id_of(place: Path) -> str:
    return place.name.removeprefix("models--").replace("--", "/", 1)


def _neighbours(folder: Path) -> str:
    """Name the folder beside it that may have been meant."""
    if not folder.parent.is_dir():
        return f"Nor is there {folder.parent}."
    beside = [each.name for each in folder.parent.iterdir() if each.is_dir()]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"Did you mean {folder.parent / near[0]}?" if near else ""


def check_folder(folder: Path) -> None:
    """Raise ModelError unless the folder holds a config and every weight file it names."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is a file, and load() takes the folder that holds config.json and the "
            f"weights: load({str(folder.parent)!r})."
        )
    here = sorted(each.name for each in folder.iterdir())
    index = next((each for each in INDEX_FILES if each in here), None)
    if "config.json" in here and index:
        named = set(shards_named(folder / index).values())
        missing = sorted(named - set(here))
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(named)} weight files named in {index}: "
                f"{', '.join(missing[:4])}. Fetch the missing files again; without them the "
                "model would be filled up with random numbers."
            )
    elif "config.json" not in here or not any(name in here for name in WEIGHT_FILES):
        try:  # which says what a LoRA adapter belongs to
            adapter = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        except (OSError, ValueError):
            adapter = None
        check_parts(folder.name, here, adapter)
        if "config.json" in here:
            raise ModelError(
                f"{folder} has a config.json but no weights: expected {WEIGHT_FILES[0]} or "
                f"{INDEX_FILES[0]}. Was the download or the copy cut short? Fetch the folder again."
            )
        raise ModelError(
            f"{folder} holds no config.json, so it is no model folder (it holds: "
            f"{', '.join(here[:6]) or 'nothing'}). Give the folder that save_pretrained() or "
            "save_4bit() wrote."
        )


def shards_named(index: Path) -> dict[str, str]:
    """Return {weight: file} of an index. Raises ModelError if it is damaged."""
    try:
        named = json.loads(index.read_text("utf-8"))["weight_map"]
        return {str(weight): str(file) for weight, file in named.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is damaged ({error}). Fetch it again.") from error


def read_config(
    checkpoint: Checkpoint,
    quantization: str | None,
    call: str,
    *,
    token: str | bool,
    cache_dir: str | None,
) -> dict[str, Any]:
    """Return config.json as it stands, without building a model's config from it.

    Raises ModelError if it cannot be had, or is not to be loaded with this `quantization`. `call`
    is what the person called.
    """
    from transformers import PretrainedConfig

    if not checkpoint.is_folder:
        check_later(checkpoint.source)
    try:
        config, _ = PretrainedConfig.get_config_dict(
            checkpoint.source, token=token, cache_dir=cache_dir
        )
        if not isinstance(config, dict):
            raise ValueError("config.json holds no settings by name")
    except Exception as error:  # what json, the hub's client and transformers may raise
        if not checkpoint.is_folder:
            check_parts(checkpoint.name, names_on_hub(checkpoint.source, token))
        raise ModelError(unreachable(checkpoint, error)) from error
    check_config(checkpoint.name, config, [model.name for model in all_models()])
    stored = stored_quantization(config)
    if stored not in (None, quantization):
        raise ModelError(
            f"The weights of {checkpoint.name} are stored in {stored} already: {call}(..., "
            f'quantization="{stored}").'
        )
    return config


def unreachable(checkpoint: Checkpoint, error: Exception) -> str:
    """Return the message for files that cannot be read or fetched."""
    first_line = next(iter(str(error).strip().splitlines()), repr(error))
    if checkpoint.is_folder:
        return f"The files in {checkpoint.source} cannot be read ({first_line}). Fetch them again."
    return (
        f"{checkpoint.source} could not be fetched from the Hugging Face hub "
        f"({first_line}). Check the spelling and the network; a private model needs "
        'load(..., token="hf_..."). The embedded model needs no network: load("tiny").'
    )


# --- weight files ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one source."""

    source: str
    format: str  # "safetensors" or "bin"
    files: tuple[tuple[str, int], ...]  # names with bytes
    fetch_bytes: int  # what the cache lacks of a hub id; 0 for a folder
    read_whole_bytes: int = 0  # files of a folder that cannot be mapped

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(name for name, _ in self.files)

    @property
    def largest_bytes(self) -> int:
        """The largest file."""
        return max(size for _, size in self.files)


def weight_files(
    source: str, *, is_folder: bool, token: str | bool = False, cache_dir: str | None = None
) -> WeightFiles | None:
    """Look up the weight files of a folder, or, with one request, of a hub id; read none.

    `token` False means none at all. Returns None where nothing can be told: there are no such
    files, the hub has no such model or cannot be reached. Loading says what is wrong then, or loads
    from the cache.
    """
    folder = Path(source)
    if is_folder:
        here = {file.name: file.stat().st_size for file in folder.glob("*") if file.is_file()}
        files = _chosen(here, folder)
    else:
        files = _chosen(_sizes_on_hub(source, token))
    if not files:
        return None
    ending, whole, fetch = files[0][0].rpartition(".")[2], 0, 0
    if is_folder and ending == "bin":
        whole = sum(size for name, size in files if is_old_format(folder / name))
    if not is_folder:
        fetch = sum(size for name, size in files if not _is_cached(source, name, size, cache_dir))
    return WeightFiles(source, ending, tuple(files), fetch, whole)


def _chosen(sizes: dict[str, int], folder: Path | None = None) -> list[tuple[str, int]]:
    """Return the files that transformers takes of those there: a single one before shards."""
    for single in WEIGHT_FILES:
        if single in sizes:
            return [(single, sizes[single])]
        stem, suffix = single.split(".")  # the hub tells no index, only names
        shards = {name for name in sizes if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name)}
        if folder is not None:
            if f"{single}.index.json" not in sizes:
                continue
            try:
                shards = set(shards_named(folder / f"{single}.index.json").values())
            except ModelError:
                return []
        if shards:
            return sorted((name, sizes[name]) for name in shards) if shards <= sizes.keys() else []
    return []


def _is_cached(hub_id: str, name: str, size: int, cache_dir: str | None) -> bool:
    """Whether the cache holds the file, in this size: the hub's may be a newer one."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, name, cache_dir=cache_dir)
    return isinstance(path, str) and Path(path).stat().st_size == size


def is_old_format(file: Path) -> bool:
    """Whether a `.bin` file is of the kind that cannot be mapped: from 1.6 on torch writes zips."""
    with file.open("rb") as stream:
        return stream.read(4) != b"PK\x03\x04"


def weight_names(folder: Path) -> set[str] | None:
    """Return the names of the weights in a folder's index, or in its one file; None if neither."""
    from safetensors import SafetensorError, safe_open

    try:
        if (folder / WEIGHT_FILES[0]).is_file():
            with safe_open(folder / WEIGHT_FILES[0], framework="pt") as opened:
                return set(opened.keys())
        index = next((name for name in INDEX_FILES if (folder / name).is_file()), None)
        return set(shards_named(folder / index)) if index else None
    except (OSError, SafetensorError, ModelError):
        return None  # damaged; reading it says so


def fetched_bytes(hub_id: str) -> int:
    """Return how many bytes of a model are in the hub's cache, those still being fetched too."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(HF_HUB_CACHE, repo_folder_name(repo_id=hub_id, repo_type="model"), "blobs")
    try:
        return sum(file.stat().st_size for file in os.scandir(blobs))
    except OSError:  # there is none yet, or one has just been given its final name
        return 0
