"""What this machine is: its GPUs, RAM and disk, and the versions of the packages that matter."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from .errors import plain

T = TypeVar("T")
LIMIT_SECONDS = 10.0  # how long the driver is waited for
NO_DRIVER, NO_GPU = "no NVIDIA driver was found", "the NVIDIA driver has no GPU"
NO_PACKAGE = "nvidia-ml-py, which asks the driver, is not installed"
HIDDEN = "CUDA_VISIBLE_DEVICES hides every GPU"
# What NVML says where there is no driver: no library of it, or no kernel module under the library.
NO_DRIVER_ERRORS = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")
PACKAGES = "torch transformers accelerate bitsandbytes ipywidgets pillow requests".split()
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# What shows a driver where its library NVML is not: in a container without the driver's utilities,
# and on a Jetson before its newer releases.
DRIVER_SIGNS = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))


@dataclass(frozen=True)
class Gpu:
    """A GPU. Memory in bytes; None is unknown."""

    index: int  # torch's number for it
    name: str
    capability: tuple[int, int] | None  # NVIDIA's compute capability, such as (7, 5)
    total_bytes: int | None
    free_bytes: int | None
    problem: str | None = None  # why torch has no code for it
    uuid: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Gpus:
    """The GPUs, and what the driver and torch are to them; None is unknown or missing."""

    gpus: tuple[Gpu, ...] = ()  # those that CUDA_VISIBLE_DEVICES leaves
    gpu_problem: str | None = None  # why there are none
    driver: str | None = None  # its version
    driver_cuda: str | None = None  # the newest CUDA version that the driver supports
    torch_cuda: str | None = None  # the one that torch was built for
    torch_rocm: str | None = None  # and for AMD's GPUs; both are None for a CPU build
    torch_sees_gpu: bool | None = None  # None unless torch was asked and answered
    torch_problem: str | None = None  # why torch does not see one


def attempt(probe: Callable[[], T], otherwise: T) -> T:
    """The probe's result, or `otherwise`: a gap in a report beats an error in its place."""
    try:
        return probe()
    except Exception:
        return otherwise


def read_gpus(ask_torch: bool) -> Gpus:
    """Ask the driver for the GPUs, and torch where that leaves a gap, or if asked to.

    Gaps: memory unknown (unified memory, a GPU in parts), GPUs of several kinds, which CUDA numbers
    in an order of its own, a driver without its library, and AMD's GPUs. Does not raise, and waits
    `LIMIT_SECONDS` at the most.
    """
    end = time.monotonic() + LIMIT_SECONDS
    cuda, rocm = attempt(torch_build, (None, None))
    try:
        found = _in_time("the NVIDIA driver", _by_driver, end)
    except TimeoutError as error:  # torch would hang too
        return Gpus(gpu_problem=str(error), torch_cuda=cuda, torch_rocm=rocm)
    except Exception as error:
        problem = f"asking the NVIDIA driver failed ({_homeless(error)})"
        is_missing = type(error).__name__ in NO_DRIVER_ERRORS
        found = Gpus(gpu_problem=NO_DRIVER if is_missing else problem)
    found = replace(found, torch_cuda=cuda, torch_rocm=rocm)
    unknown = any(None in (gpu.capability, gpu.total_bytes, gpu.free_bytes) for gpu in found.gpus)
    is_gap = unknown or len({gpu.name for gpu in found.gpus}) > 1
    if found.gpu_problem == NO_DRIVER:
        is_gap = any(sign.exists() for sign in DRIVER_SIGNS)
    if not (ask_torch or is_gap or rocm):
        return found
    left = end - time.monotonic()
    try:
        import torch  # off the clock: it asks no driver, and may take long from a cold disk

        end = time.monotonic() + left
        return _in_time("torch", lambda: _by_torch(torch, found), end)
    except TimeoutError as error:
        return replace(found, torch_problem=str(error))
    except Exception as error:  # a torch that is broken raises anything
        problem = f"{type(error).__name__}: {_homeless(error)}"
        return replace(found, torch_sees_gpu=False, torch_problem=problem)


_given_up: dict[str, threading.Thread] = {}  # by who did not answer; they may still hang


def _in_time(who: str, ask: Callable[[], T], end: float) -> T:
    """Return what `ask` returns, or raise TimeoutError when the clock is at `end`.

    In a thread, because a call that hangs in a driver cannot be ended: a process would not die of
    a kill either, it waits in the kernel. The thread does not keep Python from ending. As long as
    one hangs, no other is started.
    """
    no_answer = f"{who} gave no answer in {LIMIT_SECONDS:g} s"
    if who in _given_up and _given_up[who].is_alive():
        raise TimeoutError(no_answer)
    answer: list[Any] = []

    def work() -> None:
        try:
            answer.append(ask())
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(end - time.monotonic(), 0.1))
    if not answer:
        _given_up[who] = thread
        raise TimeoutError(no_answer)
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _by_driver() -> Gpus:
    """Ask NVML, the driver's library, which starts no CUDA. Raises what NVML raises."""
    try:
        import pynvml
    except ImportError:
        return Gpus(gpu_problem=NO_PACKAGE)
    pynvml.nvmlInit()
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = [_by_nvml(pynvml, index, count) for index in range(count)]
        gpus = [gpu for gpu in gpus if gpu is not None]
        cuda = attempt(pynvml.nvmlSystemGetCudaDriverVersion, 0)  # 12040 is 12.4
        visible = _visible(gpus)
        return Gpus(
            gpus=visible,
            gpu_problem=None if visible else HIDDEN if gpus else NO_GPU,
            driver=attempt(lambda: _text(pynvml.nvmlSystemGetDriverVersion()), "") or None,
            driver_cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        )
    finally:
        attempt(pynvml.nvmlShutdown, None)


def _by_nvml(nvml: Any, index: int, count: int) -> Gpu | None:
    """What NVML tells of one GPU; each fact may be missing, memory on unified memory above all.

    None for one that is lost, as long as there are others. Raises what NVML raises.
    """
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:
        if count > 1:
            return None
        raise
    memory = attempt(lambda: nvml.nvmlDeviceGetMemoryInfo(handle), None)
    if attempt(lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0):
        memory = None  # that of the whole; CUDA sees a part of it
    total, free, used = (getattr(memory, name, None) for name in ("total", "free", "used"))
    if free is None and None not in (total, used):
        free = total - used
    return Gpu(
        index,
        attempt(lambda: _text(nvml.nvmlDeviceGetName(handle)), "") or "NVIDIA GPU",
        attempt(lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)), None),
        *_sound(total, free),
        uuid=attempt(lambda: _text(nvml.nvmlDeviceGetUUID(handle)), ""),
    )


def _homeless(error: Exception) -> str:
    """What an error says, for a report that is shown to others: without the home folder's name."""
    return plain(str(error).replace(os.path.expanduser("~"), "~"))


def _text(value: str | bytes) -> str:
    return plain(value.decode(errors="replace") if isinstance(value, bytes) else value)


def _sound(total: int | None, free: int | None) -> tuple[int | None, int | None]:
    """The memory of a GPU, None for what cannot be: a total of 0 stands for not known."""
    if not total:
        return None, None
    return total, free if free is not None and 0 <= free <= total else None


def _visible(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order and numbered as torch does.

    As CUDA reads it: numbers or the beginnings of UUIDs, up to the first that is of no GPU; and no
    GPU at all where one is named twice. Parts of a GPU (MIG) are left to torch.
    """
    choice = os.environ.get("CUDA_VISIBLE_DEVICES")
    if choice is None or not gpus:
        return tuple(gpus)
    if "MIG-" in choice:
        return tuple(replace(gpu, total_bytes=None, free_bytes=None) for gpu in gpus)
    visible: list[Gpu] = []
    for entry in map(str.strip, choice.split(",")):
        number = re.match(r"\+?[0-9]+", entry)
        if number:
            named = gpus[int(number[0]) :][:1]
        else:
            named = [gpu for gpu in gpus if "GPU-" in entry[:4] and gpu.uuid.startswith(entry)]
        if len(named) != 1:
            break
        if named[0].index in {gpu.index for gpu in visible}:
            return ()
        visible += named
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(visible))


def _by_torch(torch: Any, found: Gpus) -> Gpus:
    """The GPUs as torch sees and numbers them, with the driver's figures where it has them.

    The driver's memory was read before torch's CUDA context took its share, and reading it from
    torch would make that context on every GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        problem = "torch.cuda.is_available() is False"
        return replace(found, torch_sees_gpu=False, torch_problem=problem)
    gpus = tuple(_of_torch(torch, index, found.gpus) for index in range(count))
    return replace(found, gpus=gpus, gpu_problem=None, torch_sees_gpu=True)


def _of_torch(torch: Any, index: int, by_driver: tuple[Gpu, ...]) -> Gpu:
    cuda = torch.cuda
    name = attempt(lambda: plain(cuda.get_device_name(index)), None)
    uuid = attempt(lambda: f"GPU-{cuda.get_device_properties(index).uuid}", "")
    same = [gpu for gpu in by_driver if uuid == gpu.uuid and uuid]
    same += [gpu for gpu in by_driver[index : index + 1] if name in (None, gpu.name)]
    known = same[0] if same else Gpu(index, "GPU", None, None, None)
    total, free = known.total_bytes, known.free_bytes
    if None in (total, free):
        by_torch = attempt(lambda: cuda.mem_get_info(index), (None, None))
        size = attempt(lambda: cuda.get_device_properties(index).total_memory, None)
        total, free = _sound(by_torch[1] or total or size, by_torch[0])
    capability = attempt(lambda: tuple(cuda.get_device_capability(index)), None)
    capability, problem = capability or known.capability, None
    if torch.version.hip:
        capability = None  # AMD's own numbers, which say nothing of NVIDIA's units
    elif capability:
        problem = _no_code(attempt(cuda.get_arch_list, []), capability)
    return Gpu(index, name or known.name, capability, total, free, problem, uuid)


def _no_code(built: list[str], capability: tuple[int, int]) -> str | None:
    """Say that a build of torch has no code for a GPU: `built` is such as ["sm_75", "compute_90"].

    Machine code (sm) runs on later minor versions too, PTX (compute) on all later ones: "Binary
    Compatibility" and "PTX Compatibility" in NVIDIA's CUDA programming guide.
    """
    versions = [
        (kind, int(major), int(minor))
        for kind, major, minor in re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built))
    ]
    runs = (
        (major, minor) <= capability and (kind == "compute" or major == capability[0])
        for kind, major, minor in versions
    )
    if not versions or any(runs):
        return None
    lowest, highest = min(version[1:] for version in versions), max(v[1:] for v in versions)
    return f"the installed torch is for compute capabilities {dotted(lowest)} to {dotted(highest)}"


def dotted(version: tuple[int, ...]) -> str:
    """Write (7, 5) as "7.5"."""
    return ".".join(map(str, version))


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
    # A half-removed package raises anything from KeyError to TypeError.
    installed = {
        name: attempt(lambda name=name: importlib.metadata.version(name), None) for name in PACKAGES
    }
    return {"python": platform.python_version()} | installed


def torch_build() -> tuple[str | None, str | None]:
    """The CUDA and the ROCm version that torch was built for, such as ("12.8", None).

    Both are None for a CPU build. Read from the text of torch/version.py: to import torch takes
    seconds.
    """
    spec = importlib.util.find_spec("torch")  # does not import it
    if spec is None or not spec.origin:
        return None, None
    text = Path(spec.origin).with_name("version.py").read_text(errors="replace")
    found = (
        re.search(rf"^{name}\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
        for name in ("cuda", "hip")
    )
    cuda, rocm = (match and match[1] for match in found)
    return cuda, rocm


def ram_bytes() -> tuple[int | None, int | None]:
    """Total and available RAM in bytes, as a container's limit leaves it; None if unknown."""
    memory = attempt(psutil.virtual_memory, None)
    total, available = (memory.total, memory.available) if memory else (None, None)
    for limit, used in attempt(lambda: list(_cgroup_limits()), []):
        total = min(limit, total or limit)
        free = max(limit - used, 0)
        available = free if available is None else min(free, available)
    return total, available


def free_ram_bytes() -> int | None:
    """RAM available now, in bytes, as a container's limit leaves it; None if unknown."""
    return ram_bytes()[1]


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of each limit that a container or a job sets, in bytes; psutil knows none."""
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    version_2 = ("memory.max", "memory.current", "inactive_file")
    for line in (PROC / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = (CGROUP / "memory" if controllers else CGROUP) / path.lstrip("/")
        for each in (folder, *folder.parents):  # a limit around this one counts too
            limit_name, used_name, cache_name = version_1 if controllers else version_2
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


def disk_free_bytes(folder: str | Path | None = None) -> int | None:
    """Free bytes where `folder` is or will be; by default the Hugging Face cache."""
    if folder is None:
        from huggingface_hub.constants import HF_HUB_CACHE as folder
    here = Path(folder).absolute()
    try:
        while not here.exists() and here != here.parent:
            here = here.parent
        return shutil.disk_usage(here).free
    except OSError:
        return None


def own_ram_bytes(process: psutil.Process | None = None) -> tuple[int | None, int | None]:
    """Return what belongs to this process alone, and all that it has in RAM; None if unknown.

    The second has mapped files and shared memory too, which the system can take back. Where it does
    not tell them apart (macOS, Windows), both are the same.
    """
    memory = attempt(lambda: (process or psutil.Process()).memory_info(), None)
    if memory is None:
        return None, None
    return memory.rss - getattr(memory, "shared", 0), memory.rss
