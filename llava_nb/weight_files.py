"""The weight files of a model and their sizes, told by a folder or the hub without reading them.

Covered: which files are the weights, how large they are, how much of them is still to be
fetched. Not covered: whether a folder is whole (`checkpoints.py`), what is inside the
files (`shards.py`), and whether they fit (`preflight.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .checkpoints import WEIGHT_FILES

HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one source: names with bytes, and how much is still to be fetched.

    `format` is "safetensors" or "bin". `fetch_bytes` is 0 for a folder; for a hub id it
    leaves out what the cache holds.
    """

    source: str
    format: str
    files: tuple[tuple[str, int], ...]
    fetch_bytes: int
    is_folder: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(name for name, _ in self.files)

    @property
    def total_bytes(self) -> int:
        """All files together."""
        return sum(size for _, size in self.files)

    @property
    def largest_bytes(self) -> int:
        """The largest file."""
        return max(size for _, size in self.files)

    @property
    def read_whole_bytes(self) -> int:
        """The files of a folder that cannot be mapped: they go through the RAM as a whole.

        For a hub id this cannot be known beforehand and is 0; `shards.open_weights` looks
        again when the files are here.
        """
        from .shards import is_old_format

        if self.format != "bin" or not self.is_folder:
            return 0
        return sum(size for name, size in self.files if is_old_format(Path(self.source) / name))


def weight_files(
    source: str, *, is_folder: bool, token: str | bool = False, cache_dir: str | None = None
) -> WeightFiles | None:
    """Look up the weight files of a folder, or, with one request, of a hub id.

    Other files are left out, and so are weights in a second format. `token` False
    means none at all. Returns None where nothing can be told: there are no such files, the
    hub has no such model or cannot be reached. Loading says what is wrong then, or loads
    from the cache; so nothing is raised here.
    """
    found = _in_folder(Path(source)) if is_folder else _on_hub(source, token)
    if not found:
        return None
    missing = [file for file in found if not (is_folder or _is_cached(source, *file, cache_dir))]
    fetch_bytes = sum(size for _, size in missing)
    return WeightFiles(source, found[0][0].rpartition(".")[2], tuple(found), fetch_bytes, is_folder)


def _in_folder(folder: Path) -> list[tuple[str, int]]:
    """The files that transformers takes from a folder: a single one before shards."""
    for single in WEIGHT_FILES:
        if (folder / single).is_file():
            return [(single, (folder / single).stat().st_size)]
        try:
            index = json.loads((folder / f"{single}.index.json").read_text("utf-8"))
            names = sorted(set(index["weight_map"].values()))
            return [(name, (folder / name).stat().st_size) for name in names]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # damaged
            return []
    return []


def _on_hub(hub_id: str, token: str | bool) -> list[tuple[str, int]]:
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return []
    try:
        about = HfApi(token=token).model_info(
            hub_id, files_metadata=True, timeout=HUB_TIMEOUT_SECONDS
        )
        listed = {each.rfilename: each.size or 0 for each in about.siblings or ()}
    except Exception:  # of half a dozen libraries; the download meets it again and words it
        return []
    for single in WEIGHT_FILES:
        if single in listed:
            return [(single, listed[single])]
        stem, suffix = single.split(".")
        shard = rf"{stem}-\d+-of-\d+\.{suffix}"
        if shards := [file for file in sorted(listed.items()) if re.fullmatch(shard, file[0])]:
            return shards
    return []


def _is_cached(hub_id: str, name: str, size: int, cache_dir: str | None) -> bool:
    """Whether the cache holds the file, in this size: the hub's may be a newer one."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, name, cache_dir=cache_dir)
    return isinstance(path, str) and Path(path).stat().st_size == size


def weight_names(folder: Path) -> set[str] | None:
    """Return the names of the weights in a folder's index, or in its one file; None if neither.

    Of a hub id the index is among the small files, so this is known before a weight is fetched.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if (folder / WEIGHT_FILES[0]).is_file():
            with safe_open(folder / WEIGHT_FILES[0], framework="pt") as opened:
                return set(opened.keys())
        for single in WEIGHT_FILES:
            if (folder / f"{single}.index.json").is_file():
                return set(
                    json.loads((folder / f"{single}.index.json").read_text("utf-8"))["weight_map"]
                )
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return None  # damaged; reading it says so
    return None
