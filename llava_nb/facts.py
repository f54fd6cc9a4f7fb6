"""Facts about the machine that no GPU driver is needed for, read and never changed.

Covered: which service this is, RAM (with the limit of a container), disk, package
versions, the CUDA version that torch was built for and bitsandbytes' libraries, the
last three without importing the packages.
Not covered: GPUs (`nvidia.py`) and what follows from the facts (`runtime.py`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2^63
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "ipywidgets",
    "pillow",
    "requests",
)
# The oldest versions that work here. transformers 5 renamed modules and arguments, and asks for
# these versions of the other two itself.
SUPPORTED = {"transformers": "5.0", "accelerate": "1.1.0", "bitsandbytes": "0.46.1"}


def place() -> str:
    """Say where this runs: "colab", "kaggle" or "local"."""
    # Kaggle first: its image is built on Colab's and inherits Colab's variables.
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    # Only the variables tell: google.colab can be imported wherever it is installed.
    if "COLAB_RELEASE_TAG" in os.environ or "COLAB_GPU" in os.environ:
        return "colab"
    return "local"


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None for what is missing."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except Exception:  # a half-removed package raises anything from KeyError to TypeError
        return None


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.11.0+cu128" is (2, 11, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def unsupported(package: str, version: str) -> str | None:
    """Say which versions are supported if `version` is too old, else None."""
    lowest = SUPPORTED.get(package)
    if lowest is None or version_numbers(version) >= version_numbers(lowest):
        return None
    return f"{lowest} or later is supported"


def _package_folder(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)  # does not import a top-level package
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, such as "12.8"; None for a CPU build.

    Read from the text of torch/version.py; where there is none, from the tag in the
    package version ("+cu128").
    """
    folder = _package_folder("torch")
    if folder and (folder / "version.py").is_file():
        text = (folder / "version.py").read_text(errors="replace")
        found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
        return found.group(1) if found else None
    found = re.search(r"\+cu(\d+)(\d)$", _version("torch") or "")
    return f"{found.group(1)}.{found.group(2)}" if found else None


def bitsandbytes_library(cuda: str | None) -> str | None:
    """The file that bitsandbytes loads beside a torch built for `cuda`; None if it has none.

    The rule is that of `get_cuda_bnb_library_path` in bitsandbytes/cextension.py: the same
    version, else the nearest lower one of the same major version, else the nearest
    higher one. For a CPU build of torch it is the CPU library.
    """
    folder = _package_folder("bitsandbytes")
    if folder is None:
        return None
    if cuda is None:
        return next((path.name for path in folder.glob("libbitsandbytes_cpu.*")), None)
    wanted = version_numbers(cuda)[:2]
    available = {}
    for path in folder.glob("libbitsandbytes_cuda*"):
        digits = re.match(r"libbitsandbytes_cuda(\d+)(\d)\.", path.name)
        if digits and int(digits[1]) == wanted[0]:
            available[int(digits[1]), int(digits[2])] = path.name
    lower = [version for version in available if version <= wanted]
    best = max(lower) if lower else min(available, default=None)
    return available.get(best)


def ram_bytes() -> tuple[int | None, int | None]:
    """Total and available RAM in bytes, as a container's limit leaves it; None if unknown."""
    total, available = _host_ram()
    for limit, used in _cgroup_limits():
        total = min(limit, total or limit)
        free = max(limit - used, 0)
        available = free if available is None else min(free, available)
    return total, available


def _host_ram() -> tuple[int | None, int | None]:
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
        return 1024 * kib["MemTotal"], 1024 * kib.get("MemAvailable", kib["MemFree"])
    except (OSError, LookupError, ValueError):
        return _sysconf("SC_PHYS_PAGES"), _sysconf("SC_AVPHYS_PAGES")


def _sysconf(pages: str) -> int | None:
    """A number of memory pages in bytes. macOS knows only the total, Windows neither."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of each memory limit on this process, in bytes; cgroup version 1 and 2."""
    for folder, names in _cgroup_folders():
        limit_name, used_name, cache_name = names
        try:
            limit = int((folder / limit_name).read_text())  # "max", no limit, is a ValueError
            used = int((folder / used_name).read_text())
            statistics = (folder / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if limit >= NO_LIMIT:
            continue
        # Files read lately count as used, a checkpoint just downloaded above all; the
        # kernel gives these pages back when asked.
        cached = re.search(rf"^{cache_name} (\d+)", statistics, re.MULTILINE)
        yield limit, used - (int(cached.group(1)) if cached else 0)


def _cgroup_folders() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders that may limit this process, its own first, then those around it."""
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = ("memory.max", "memory.current", "inactive_file")
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUP, version_2
        elif "memory" in controllers.split(","):
            root, names = CGROUP / "memory", version_1
        else:
            continue
        folder = root / path.lstrip("/")
        inside = [each for each in (folder, *folder.parents) if each.is_relative_to(root)]
        yield from ((each, names) for each in inside)


def disk_free_bytes(folder: str | Path | None = None) -> int | None:
    """Free bytes where `folder` is or will be; by default the Hugging Face cache."""
    here = Path(folder) if folder else _hugging_face_cache()
    try:
        while not here.exists() and here != here.parent:
            here = here.parent
        return shutil.disk_usage(here).free
    except OSError:
        return None


def _hugging_face_cache() -> Path:
    """Where downloads go; the rules are those of `huggingface_hub.constants`."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or home)).absolute()
