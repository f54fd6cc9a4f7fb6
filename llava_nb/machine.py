"""What this machine is: its GPUs, RAM and disk, and the versions of the packages that matter.

Every fact may be unknown, and is None then: a gap in a report beats an error in its place.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from .errors import plain

T = TypeVar("T")
LIMIT_SECONDS = 10.0  # how long the driver and torch are waited for, together
HUB_SECONDS = 3.0  # and the hub
NO_DRIVER, NO_GPU = "no NVIDIA driver was found", "the NVIDIA driver has no GPU"
NO_PACKAGE = "nvidia-ml-py, which asks the driver, is not installed"
HIDDEN = "CUDA_VISIBLE_DEVICES hides every GPU"
# What is raised where there is no driver: it has no library, or the library no kernel module.
DRIVER_ERRORS = {
    "NVMLError_LibraryNotFound": NO_DRIVER,
    "NVMLError_DriverNotLoaded": NO_DRIVER,
    "ImportError": NO_PACKAGE,
    "ModuleNotFoundError": NO_PACKAGE,
}
# What shows a driver where its library NVML is not: in a container without the driver's utilities,
# and on a Jetson before its newer releases.
DRIVER_SIGNS = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))
# Of the compute capability, for NF4: "NVIDIA CUDA" in bitsandbytes' installation guide.
LOWEST_CAPABILITY = (6, 0)
# Kaggle first: its image is built on Colab's and inherits Colab's variables. Only the variables
# tell: google.colab can be imported wherever it is installed.
PLACES = {"KAGGLE_KERNEL_RUN_TYPE": "kaggle", "COLAB_RELEASE_TAG": "colab", "COLAB_GPU": "colab"}
PACKAGES = "torch transformers accelerate bitsandbytes ipywidgets pillow requests".split()
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """A GPU. Memory in bytes; None is unknown."""

    index: int  # torch's number for it
    name: str
    capability: tuple[int, int] | None  # NVIDIA's compute capability, such as (7, 5)
    total_bytes: int | None
    free_bytes: int | None
    uuid: str = field(default="", repr=False, compare=False)
    # What torch was built for, as ("sm_75", "compute_90"); empty where torch was not asked.
    arches: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def problem(self) -> str | None:
        """Why no model runs on it, however much memory it has; None if one may."""
        # Machine code (sm) runs on later minor versions too, PTX (compute) on all later ones:
        # "Binary Compatibility" and "PTX Compatibility" in NVIDIA's CUDA programming guide.
        found = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(self.arches))
        built = sorted(((int(major), int(minor)), kind) for kind, major, minor in found)
        has = self.capability
        runs = (v <= has and (kind == "compute" or v[0] == has[0]) for v, kind in built if has)
        if has and built and not any(runs):
            lacks = "the installed torch is for compute capabilities "
            lacks += f"{dotted(built[0][0])} to {dotted(built[-1][0])}"
        elif has and has < LOWEST_CAPABILITY:
            lacks = f"4 bits need compute capability {dotted(LOWEST_CAPABILITY)}"
        else:
            return None
        return f"{lacks}, and the {self.name} has {dotted(has)}"


def attempt(probe: Callable[[], T], otherwise: T) -> T:
    """The probe's result, or `otherwise` where it raises."""
    try:
        return probe()
    except Exception:
        return otherwise


def gpu_facts(ask_torch: bool) -> dict[str, Any]:
    """What the driver and, where that leaves a gap or if asked to, torch know: fields of GpuReport.

    Does not raise, and waits `LIMIT_SECONDS` at most.
    """
    end = time.monotonic() + LIMIT_SECONDS
    cuda, rocm = attempt(_torch_build, (None, None))
    facts = {"torch_cuda": cuda, "torch_rocm": rocm, "gpus": ()}
    try:
        facts |= _in_time("the NVIDIA driver", _ask_driver)
    except TimeoutError as error:  # torch would hang too
        return facts | {"gpu_problem": str(error)}
    except Exception as error:
        problem = f"asking the NVIDIA driver failed ({_homeless(error)})"
        facts["gpu_problem"] = DRIVER_ERRORS.get(type(error).__name__, problem)
    gpus = facts["gpus"]
    # Gaps: what is unknown of a GPU (unified memory, a GPU in parts), GPUs of several kinds, which
    # CUDA numbers in an order of its own, a driver without its library, and AMD's GPUs.
    is_gap = any(None in (gpu.capability, gpu.total_bytes, gpu.free_bytes) for gpu in gpus)
    is_gap = is_gap or len({gpu.name for gpu in gpus}) > 1 or rocm is not None
    if facts["gpu_problem"] in (NO_DRIVER, NO_PACKAGE):
        is_gap = is_gap or any(sign.exists() for sign in DRIVER_SIGNS)
    if not (ask_torch or is_gap):
        return facts
    left = end - time.monotonic()
    try:
        import torch  # off the clock: it asks no driver, and may take long from a cold disk

        return facts | _in_time("torch", lambda: _ask_torch(torch, gpus), left=left)
    except TimeoutError as error:
        return facts | {"torch_problem": str(error)}
    except Exception as error:  # a torch that is broken raises anything
        problem = f"{type(error).__name__}: {_homeless(error)}"
        return facts | {"torch_sees_gpu": False, "torch_problem": problem}


_answers: dict[str, Future] = {}  # the last of each who was asked; it may never come


def _in_time(
    who: str, ask: Callable[[], T], limit: float | None = None, left: float | None = None
) -> T:
    """Return what `ask` returns or raise what it raises; TimeoutError when the time is over.

    `limit` is in seconds, `left` what others have left of it.
    """
    # In a thread, because a call that hangs in a driver cannot be ended: a process would not die of
    # a kill either. It does not keep Python from ending, and while it hangs no other is started.
    answer, limit = _answers.get(who), limit or LIMIT_SECONDS
    if answer is None or answer.done():
        answer = _answers[who] = Future()

        def work() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(max(limit if left is None else left, 0.1))
    except concurrent.futures.TimeoutError:  # not the built-in one before Python 3.11
        raise TimeoutError(f"{who} gave no answer in {limit:g} s") from None


def _ask_driver() -> dict[str, Any]:
    """Ask NVML, the driver's library, which starts no CUDA. Raises what NVML raises."""
    import pynvml as nvml

    nvml.nvmlInit()
    try:
        count, gpus = nvml.nvmlDeviceGetCount(), []
        for index in range(count):
            try:
                gpus.append(_of_nvml(nvml, index, nvml.nvmlDeviceGetHandleByIndex(index)))
            except Exception:
                if count == 1:  # one that is lost leaves the others
                    raise
        visible = _visible(gpus)
        cuda = attempt(nvml.nvmlSystemGetCudaDriverVersion, 0)  # 12040 is 12.4
        return {
            "gpus": visible,
            "gpu_problem": None if visible else HIDDEN if gpus else NO_GPU,
            "driver": attempt(lambda: plain(nvml.nvmlSystemGetDriverVersion()), None),
            "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        }
    finally:
        attempt(nvml.nvmlShutdown, None)


def _of_nvml(nvml: Any, index: int, handle: Any) -> Gpu:
    """What NVML tells of one GPU; each fact may be missing, memory on unified memory above all."""

    def known(fact: str) -> Any:
        return attempt(lambda: getattr(nvml, f"nvmlDeviceGet{fact}")(handle), None)

    name = plain(known("Name") or "NVIDIA GPU")
    capability = tuple(known("CudaComputeCapability") or ()) or None
    is_in_parts = (known("MigMode") or (0, 0))[0]  # CUDA sees a part, NVML the memory of the whole
    memory = None if is_in_parts else known("MemoryInfo")
    total, free = _sound(getattr(memory, "total", None), getattr(memory, "free", None))
    return Gpu(index, name, capability, total, free, known("UUID") or "")


def _ask_torch(torch: Any, by_driver: tuple[Gpu, ...]) -> dict[str, Any]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return {"torch_sees_gpu": False, "torch_problem": "torch.cuda.is_available() is False"}
    gpus = tuple(_of_torch(torch, index, by_driver) for index in range(count))
    return {"torch_sees_gpu": True, "gpus": gpus, "gpu_problem": None}


def _of_torch(torch: Any, index: int, by_driver: tuple[Gpu, ...]) -> Gpu:
    """One GPU as torch sees and numbers it, with the driver's figures where it has them."""

    def known(fact: str) -> Any:
        return attempt(lambda: getattr(torch.cuda, fact)(index), None)

    name, properties = known("get_device_name"), known("get_device_properties")
    uuid = f"GPU-{getattr(properties, 'uuid', '')}"
    same = [gpu for gpu in by_driver if gpu.uuid == uuid]
    same += [gpu for gpu in by_driver[index : index + 1] if name in (None, gpu.name)]
    gpu = same[0] if same else Gpu(index, "GPU", None, None, None)
    total, free = gpu.total_bytes, gpu.free_bytes
    # Not where the driver knows: it was asked before torch's CUDA context took its share, and
    # reading the memory from torch would make that context on every GPU.
    if None in (total, free):
        free, whole = known("mem_get_info") or (None, None)
        total, free = _sound(whole or total or getattr(properties, "total_memory", None), free)
    capability = tuple(known("get_device_capability") or ()) or gpu.capability
    if torch.version.hip:
        capability = None  # AMD's own numbers, which say nothing of NVIDIA's units
    arches = tuple(attempt(torch.cuda.get_arch_list, ()))
    return Gpu(index, plain(name or gpu.name), capability, total, free, uuid, arches)


def _visible(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order and numbered as torch does."""
    choice = os.environ.get("CUDA_VISIBLE_DEVICES")
    if choice is None:
        return tuple(gpus)
    if "MIG-" in choice:
        return tuple(replace(gpu, total_bytes=None, free_bytes=None) for gpu in gpus)
    # As CUDA reads it: numbers or beginnings of UUIDs, up to the first of no GPU; and no GPU at
    # all where one is named twice. Parts of a GPU (MIG) are left to torch.
    visible: list[Gpu] = []
    for entry in map(str.strip, choice.split(",")):
        beginning = max(len(entry), len("GPU-"))
        named = [gpu for gpu in gpus if entry in (str(gpu.index), gpu.uuid[:beginning])]
        if not entry or len(named) != 1:
            break
        visible += named
    if len(set(visible)) < len(visible):
        return ()
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(visible))


def _sound(total: int | None, free: int | None) -> tuple[int | None, int | None]:
    """The memory of a GPU, None for what cannot be: a total of 0 stands for not known."""
    if not total:
        return None, None
    return total, free if free is not None and 0 <= free <= total else None


def _homeless(error: Exception) -> str:
    """What an error says, for a report that is shown to others: without the home folder's name."""
    return plain(str(error).replace(os.path.expanduser("~"), "~"))


def dotted(version: tuple[int, ...]) -> str:
    """Write (7, 5) as "7.5"."""
    return ".".join(map(str, version))


def _torch_build() -> tuple[str | None, str | None]:
    """The CUDA and the ROCm version that torch was built for; both are None for a CPU build."""
    # torch/version.py is run by itself: to import torch takes seconds.
    torch = importlib.util.find_spec("torch")
    build = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    return build.get("cuda"), build.get("hip")


def place() -> str:
    """Say where this runs: "colab", "kaggle" or "local"."""
    return next((name for variable, name in PLACES.items() if variable in os.environ), "local")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None for what is missing."""
    # A half-removed package raises anything from KeyError to TypeError.
    found = {
        name: attempt(lambda name=name: importlib.metadata.version(name), None) for name in PACKAGES
    }
    return {"python": platform.python_version()} | found


def ram_bytes() -> tuple[int | None, int | None]:
    """Total and available RAM in bytes, as a container's limit leaves it."""
    memory = attempt(psutil.virtual_memory, None)
    total, available = getattr(memory, "total", None), getattr(memory, "available", None)
    for limit, used in attempt(lambda: list(_cgroup_limits()), []):
        total, free = min(limit, total or limit), max(limit - used, 0)
        available = free if available is None else min(free, available)
    return total, available


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of each limit that a container or a job sets, in bytes; psutil knows none."""
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = ("memory.max", "memory.current", "inactive_file")
    for line in (PROC / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        limit_name, used_name, cache_name = version_1 if controllers else version_2
        folder = (CGROUP / "memory" if controllers else CGROUP) / path.lstrip("/")
        for each in (folder, *folder.parents):  # a limit around this one counts too
            try:
                limit = int((each / limit_name).read_text())  # "max", no limit, is a ValueError
                used = int((each / used_name).read_text())
                statistics = (each / "memory.stat").read_text()
            except (OSError, ValueError):
                continue
            # Files read lately count as used, a checkpoint just downloaded above all; the
            # kernel gives these pages back when asked.
            cached = re.search(rf"^{cache_name} (\d+)", statistics, re.MULTILINE)
            if limit < 2**60:  # version 1 writes "no limit" as a number near 2^63
                yield limit, used - (int(cached[1]) if cached else 0)


def hub_problem(hub_id: str) -> str | None:
    """Say why a model can be had neither from the hub's cache nor from the hub; None if it can.

    Waits `HUB_SECONDS` at most, and fetches nothing but the headers of one small file.
    """
    import requests
    from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache

    files = ("config.json", "model.safetensors")
    if all(isinstance(try_to_load_from_cache(hub_id, file), str) for file in files):
        return None
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    address = f"{constants.ENDPOINT}/{hub_id}/resolve/main/{files[0]}"
    host = re.sub(r"^https?://", "", constants.ENDPOINT)

    def ask() -> None:
        options = {"timeout": HUB_SECONDS, "allow_redirects": True}
        # Public, so nobody's name is given: without `auth` requests would take that of ~/.netrc.
        requests.head(address, auth=lambda request: request, **options).raise_for_status()

    try:
        _in_time(host, ask, HUB_SECONDS)
    except TimeoutError as error:
        return str(error)
    except requests.HTTPError as error:
        return f"{host} answered {error.response.status_code}"
    except Exception:  # of requests, urllib3 and below
        return f"{host} cannot be reached"
    return None


def disk_free_bytes(folder: str | Path | None = None) -> int | None:
    """Free bytes where `folder` is or will be; by default the Hugging Face cache."""
    if folder is None:
        from huggingface_hub.constants import HF_HUB_CACHE as folder
    try:
        here = Path(folder).absolute()
        return shutil.disk_usage(next(each for each in (here, *here.parents) if each.exists())).free
    except OSError:
        return None


def own_ram_bytes(process: psutil.Process | None = None) -> tuple[int | None, int | None]:
    """Return what belongs to this process alone, and all that it has in RAM.

    The second has mapped files and shared memory too, which the system can take back.
    """
    memory = attempt(lambda: (process or psutil.Process()).memory_info(), None)
    if memory is None:
        return None, None
    # macOS and Windows do not tell the two apart.
    return memory.rss - getattr(memory, "shared", 0), memory.rss
