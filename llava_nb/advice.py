"""What to do about what a report shows: one sentence for each repair, ready to follow.

Covered: no GPU, a driver or a torch that cannot use the one there is, VRAM that is taken,
bitsandbytes, package versions.
Not covered: doing any of it. The set-up script installs, the person decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .catalog import known_models
from .facts import SUPPORTED, unsupported
from .nvidia import NOT_FOUND
from .sizes import format_gib

if TYPE_CHECKING:
    from .report import GpuReport

GPU_MENUS = {
    "colab": "Runtime > Change runtime type > T4 GPU > Save, then Runtime > Run all",
    "kaggle": "Settings > Accelerator > GPU T4 x2",
}
TORCH_COMMANDS = "https://pytorch.org/get-started/locally/"


def repairs(report: GpuReport) -> tuple[str, ...]:
    """The steps for this report, the most important first; empty where all is well."""
    rules = (_no_gpu, _driver, _torch, _taken_vram, _bitsandbytes, _versions)
    return tuple(step for rule in rules for step in rule(report))


def _no_gpu(report: GpuReport) -> Iterator[str]:
    if report.gpu:
        return
    problem = report.gpu_problem or NOT_FOUND
    if "CUDA_VISIBLE_DEVICES" in problem:
        yield f"{problem}: unset that variable and start Python again."
    elif report.place in GPU_MENUS:
        yield f"No GPU is attached. Choose {GPU_MENUS[report.place]}."
    elif problem == NOT_FOUND:
        yield (
            "No NVIDIA driver was found. With an NVIDIA GPU in this machine, install the driver "
            "from https://www.nvidia.com/drivers and restart; without one, open the notebook in "
            'Colab and choose a T4 GPU, or stay with the embedded model: load("tiny").'
        )
    else:
        yield (
            f"The NVIDIA driver does not answer ({problem}). Restart the machine; if that does "
            "not help, install the driver again from https://www.nvidia.com/drivers."
        )


def _driver(report: GpuReport) -> Iterator[str]:
    if report.gpu and report.driver_too_old and not report.torch_sees_gpu:
        yield (
            f"torch was built for CUDA {report.torch_cuda}, and driver {report.driver} goes up to "
            f"CUDA {report.driver_cuda}. Update the driver from https://www.nvidia.com/drivers, "
            f"or take the command for an older CUDA version from {TORCH_COMMANDS}."
        )


def _torch(report: GpuReport) -> Iterator[str]:
    if not report.versions or report.torch_sees_gpu:
        return
    if report.versions.get("torch") is None:
        yield "torch is not installed. Run: bash colab_setup.sh (or: pip install torch)"
    elif report.gpu and report.torch_cuda is None:
        yield (
            f"The {report.gpu_name} is there, but torch {report.versions['torch']} is a CPU "
            "build. Run: pip install --force-reinstall torch, then start Python again "
            f"(on Windows, take the command from {TORCH_COMMANDS})."
        )
    elif report.gpu and report.torch_sees_gpu is False and not report.driver_too_old:
        yield (
            f"torch cannot use the {report.gpu_name}. Restart the runtime; if that does not "
            f"help, install torch again with the command from {TORCH_COMMANDS}."
        )


def _taken_vram(report: GpuReport) -> Iterator[str]:
    """Where another process holds what the smallest model needs, say so."""
    free, total = report.vram_free_bytes, report.vram_total_bytes
    needed = min(model.needs_vram_bytes for model in known_models() if model.hub_id)
    if free is not None and total is not None and free < needed <= total:
        yield (
            f"{format_gib(total - free)} of {format_gib(total)} of VRAM are taken. Call "
            "llava_nb.free_vram(), or restart the other notebook or process that holds them "
            "(nvidia-smi lists it)."
        )


def _bitsandbytes(report: GpuReport) -> Iterator[str]:
    if not report.versions or report.bitsandbytes_library:
        return
    if report.versions.get("bitsandbytes") is None:
        yield "bitsandbytes, which 4 and 8 bits need, is missing. Run: pip install bitsandbytes"
    elif report.versions.get("torch") is not None:
        built = f"CUDA {report.torch_cuda}" if report.torch_cuda else "a CPU"
        yield (
            f"bitsandbytes has no library for a torch built for {built}. "
            "Run: pip install --upgrade bitsandbytes"
        )


def _versions(report: GpuReport) -> Iterator[str]:
    for package, lowest in SUPPORTED.items():
        version = report.versions.get(package)
        if version is None or unsupported(package, version) is None:
            continue
        fault = f"{package} {version} is older than {lowest}, the oldest that llava_nb supports."
        if report.place == "colab" and package != "bitsandbytes":
            yield (
                f"{fault} Choose Runtime > Change runtime type > Runtime version > Latest, "
                "then Runtime > Run all."
            )
        else:
            yield f'{fault} Run: pip install "{package}>={lowest}", then start Python again.'
