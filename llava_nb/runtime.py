"""What this machine can run: `check_gpu()` gathers facts and gives a verdict on each model.

Covered: `check_gpu`, the number format to compute in, the free RAM.
Not covered: how facts are read (`facts.py`, `nvidia.py`), how the report reads
(`report.py`), the repairs (`advice.py`), and changing anything: nothing here installs,
deletes, or initialises CUDA unasked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from . import advice, facts, nvidia
from .catalog import ModelInfo, known_models
from .report import GpuReport, Verdict
from .sizes import format_gib

__all__ = ["GpuReport", "Verdict", "check_gpu", "compute_dtype_name", "free_ram_bytes"]

T = TypeVar("T")


def compute_dtype_name(capability: tuple[int, int] | None) -> tuple[str, str]:
    """Return the number format to compute in, by torch's name for it, and the reason.

    `capability` is the GPU's compute capability, None without a CUDA GPU. GPUs have
    bfloat16 units from 8.0 (Ampere) on: "Compute Capabilities" in NVIDIA's CUDA
    programming guide.
    """
    if capability is None:
        return "float32", "without a CUDA GPU the model computes on the CPU, in float32"
    written = ".".join(map(str, capability))
    if tuple(capability) >= (8, 0):
        return "bfloat16", f"compute capability {written} has bfloat16 units (from 8.0 on)"
    return "float16", (
        f"compute capability {written} has no bfloat16 units; "
        "torch.cuda.is_bf16_supported() says True there and is wrong"
    )


def free_ram_bytes() -> int | None:
    """RAM available now, in bytes, as a container's limit leaves it; None if unknown."""
    return _attempt(facts.ram_bytes, (None, None))[1]


def check_gpu(*, ask_torch: bool = False) -> GpuReport:
    """Look at this machine and say what it can run. Never raises; what fails is None.

    The facts come from `nvidia-smi`, `/proc` and package metadata: CUDA stays untouched
    and torch is not imported. `ask_torch=True` imports it and asks whether it can use
    the GPU, which also serves containers that have no `nvidia-smi`.
    """
    reading = _attempt(nvidia.read, nvidia.Reading(problem="the GPU could not be read"))
    sees_gpu = None
    if ask_torch:
        sees_gpu, by_torch = _attempt(nvidia.ask_torch, (False, nvidia.Reading()))
        reading = reading if reading.gpus or not by_torch.gpus else by_torch
    cuda = _attempt(facts.torch_cuda, None)
    ram_total, ram_available = _attempt(facts.ram_bytes, (None, None))
    report = GpuReport(
        place=_attempt(facts.place, "local"),
        gpus=reading.gpus,
        gpu_problem=reading.problem,
        driver=reading.driver,
        driver_cuda=reading.driver_cuda,
        torch_cuda=cuda,
        torch_sees_gpu=sees_gpu,
        bitsandbytes_library=_attempt(lambda: facts.bitsandbytes_library(cuda), None),
        ram_total_bytes=ram_total,
        ram_available_bytes=ram_available,
        disk_free_bytes=_attempt(facts.disk_free_bytes, None),
        versions=_attempt(facts.versions, {}),
    )
    dtype, reason = compute_dtype_name(report.capability)
    if report.gpu and report.capability is None:
        dtype, reason = "float16", "the compute capability is unknown, and every GPU has float16"
    report = replace(report, compute_dtype=dtype, compute_dtype_reason=reason)
    verdicts = tuple(_judge(model, report) for model in known_models())
    report = replace(report, verdicts=verdicts)
    return replace(report, advice=advice.repairs(report))


def _attempt(probe: Callable[[], T], otherwise: T) -> T:
    """The probe's result, or `otherwise`: a gap in the report beats an error in its place."""
    try:
        return probe()
    except Exception:
        return otherwise


def _judge(model: ModelInfo, report: GpuReport) -> Verdict:
    """Compare what the model needs in 4 bits with what is free."""
    needed, free, where = model.needs_vram_bytes, report.vram_free_bytes, "VRAM"
    owner = f"the {report.gpu_name}"
    if report.gpu is None:
        if model.hub_id:
            why = f"needs {format_gib(needed)} of VRAM in 4 bits, and there is no CUDA GPU"
            return Verdict(model.name, "4bit", False, needed, None, why)
        free, where, owner = report.ram_available_bytes, "RAM", "this machine"
    if free is None:
        outcome = "cannot tell"
    elif free >= needed:
        outcome = f"fits with {format_gib(free - needed)} to spare"
    else:
        outcome = f"does not fit: {format_gib(needed - free)} short"
    why = (
        f"{outcome} (needs {format_gib(needed)} of {where} in 4 bits; "
        f"{owner} has {format_gib(free)} free)"
    )
    return Verdict(model.name, "4bit", free is not None and free >= needed, needed, free, why)
