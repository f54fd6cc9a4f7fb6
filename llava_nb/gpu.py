"""What this machine can run: `check_gpu()` gives a verdict on each model, and the repairs.

Nothing here installs or deletes: the report says what to do, and the person decides.
"""

from __future__ import annotations

import functools
import html
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from . import machine
from .catalog import FOR_CPU, ModelInfo, known_models
from .errors import LlavaNbError, format_gib, plain
from .machine import NO_DRIVER, NO_GPU, Gpu, attempt, disk_free_bytes, dotted, ram_bytes

# The oldest versions that work here. transformers 5 renamed modules and arguments, and asks for
# these versions of the other two itself.
SUPPORTED = {"transformers": "5.0", "accelerate": "1.1.0", "bitsandbytes": "0.46.1"}
MISSING = {
    "torch": "torch is not installed. Run: bash colab_setup.sh (or: pip install torch)",
    "bitsandbytes": "bitsandbytes, which 4 and 8 bits need, is missing. "
    "Run: pip install bitsandbytes",
}
PLACES = {"colab": "Google Colab", "kaggle": "Kaggle", "local": "local"}
GPU_MENUS = {
    "colab": "Runtime > Change runtime type > T4 GPU > Save, then Runtime > Run all",
    "kaggle": "Settings > Accelerator > GPU T4 x2",
}
DRIVERS = "https://www.nvidia.com/drivers"
TORCH_COMMANDS = "https://pytorch.org/get-started/locally/"


@dataclass(frozen=True)
class Verdict:
    """Whether a model fits this machine, and by how much. Memory in bytes, None is unknown.

    The memory is VRAM or, without a CUDA GPU, RAM for the embedded model.
    """

    model: str
    quantization: str | None
    fits: bool
    needed_bytes: int
    free_bytes: int | None
    why: str


@dataclass(frozen=True)
class Recommendation:
    """The short name of the model to take, how, and why, in one sentence with numbers."""

    model: str
    reason: str
    quantization: str | None = "4bit"  # None: in float32 on a CPU

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


@dataclass(frozen=True)
class GpuReport:
    """What `check_gpu` found. Memory in bytes; None is unknown or missing.

    `str()` is text for a bug report: no names, paths, tokens or environment.
    """

    place: str = "local"
    gpus: tuple[Gpu, ...] = ()  # those that CUDA_VISIBLE_DEVICES leaves
    gpu_problem: str | None = None  # why there are none
    driver: str | None = None  # its version
    driver_cuda: str | None = None  # the newest CUDA version that the driver supports
    torch_cuda: str | None = None  # the one that torch was built for
    torch_rocm: str | None = None  # and for AMD's GPUs; both are None for a CPU build
    torch_sees_gpu: bool | None = None  # None unless torch was asked and answered
    torch_problem: str | None = None  # why torch does not see one
    ram_total_bytes: int | None = None
    ram_available_bytes: int | None = None
    disk_free_bytes: int | None = None
    versions: dict[str, str | None] = field(default_factory=dict, hash=False)
    compute_dtype: str = "float32"
    compute_dtype_reason: str = ""
    verdicts: tuple[Verdict, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def gpu(self) -> Gpu | None:
        """The GPU to use: the one with the most free VRAM, of those that can be used."""
        return max(self.gpus, key=lambda gpu: (not gpu.problem, gpu.free_bytes or 0), default=None)

    # Of the GPU to use; None without one.
    gpu_name = property(lambda self: getattr(self.gpu, "name", None))
    capability = property(lambda self: getattr(self.gpu, "capability", None))
    vram_total_bytes = property(lambda self: getattr(self.gpu, "total_bytes", None))
    vram_free_bytes = property(lambda self: getattr(self.gpu, "free_bytes", None))

    @property
    def no_cuda_reason(self) -> str | None:
        """Why nothing runs on a GPU here, without a full stop; None where models would."""
        return _fault(self)[0] if self.gpus else "there is no CUDA GPU"

    @functools.cached_property
    def hub_problem(self) -> str | None:
        """Why the small model cannot be had; None if it can. The hub is asked once."""
        return attempt(lambda: machine.hub_problem(FOR_CPU.hub_id), "the hub was not asked")

    def __str__(self) -> str:
        rows = [f"{f'[{mark}]':<7}{label:<15}{text}" for mark, label, text in _rows(self)]
        steps = ["What to do:", *(f"- {step}" for step in self.advice)] if self.advice else []
        return "\n".join(["llava_nb report", *rows, *steps])

    def _repr_html_(self) -> str:
        # No colours of its own: the page's suit its theme, be it light or dark.
        cell = "<td style='text-align: left; vertical-align: top'>"
        rows = (
            "<tr>" + "".join(f"{cell}{html.escape(text)}</td>" for text in row) + "</tr>"
            for row in _rows(self)
        )
        steps = "".join(f"<li>{html.escape(step)}</li>" for step in self.advice)
        return f"<table>{''.join(rows)}</table>" + (f"What to do:<ul>{steps}</ul>" if steps else "")


def check_gpu(*, ask_torch: bool = False) -> GpuReport:
    """Look at this machine and say what it can run. Never raises for what it finds.

    The driver's library is asked, which starts no CUDA, and waited for 10 seconds at the most.
    `ask_torch=True` imports torch and asks whether it can use the GPU. Otherwise torch is imported
    only where the driver leaves a gap, as of the memory of a GB10. Where no LLaVA-1.5 fits,
    printing the report asks the Hugging Face hub, for 3 seconds at the most, whether it has a
    small model.
    """
    if not isinstance(ask_torch, bool):
        raise LlavaNbError(f"ask_torch is {plain(repr(ask_torch))}; it is True or False.")
    total, available = attempt(ram_bytes, (None, None))
    report = GpuReport(
        place=machine.place(),
        **machine.gpu_facts(ask_torch),
        ram_total_bytes=total,
        ram_available_bytes=available,
        disk_free_bytes=attempt(disk_free_bytes, None),
        versions=machine.versions(),
    )
    usable = report.gpu if report.gpu and not report.gpu.problem else None
    dtype, reason = compute_dtype_name(usable and usable.capability)
    if usable and usable.capability is None:
        dtype, reason = "float16", "the compute capability is unknown, and every GPU has float16"
    verdicts = tuple(_judge(model, report) for model in known_models())
    found = {"compute_dtype": dtype, "compute_dtype_reason": reason, "verdicts": verdicts}
    return replace(report, **found, advice=tuple(_repairs(report)))


def recommend(report: GpuReport) -> Recommendation:
    """Choose the largest LLaVA-1.5 that fits the GPU of `report` in 4 bits.

    Without a GPU to use, or with too little of its memory free, it is a small LLaVA-OneVision: on
    the CPU in float32, on the GPU in 4 bits, if memory and disk have room and the hub or its cache
    has it; else "tiny", which knows drawn shapes alone. Raises LlavaNbError for anything but a
    report.
    """
    if not isinstance(report, GpuReport):
        kind = type(report).__name__
        raise LlavaNbError(
            f"recommend() takes what check_gpu() returns, not {kind}: recommend(check_gpu())."
        )
    embedded, *others = known_models()
    needs = [format_gib(model.needs_vram_bytes) for model in others]
    free, gpu = report.vram_free_bytes, report.gpu_name
    fitting = sum(model.needs_vram_bytes <= (free or 0) for model in others)
    if report.no_cuda_reason:
        lack = report.no_cuda_reason
    elif free is None:
        lack = f"the free VRAM of the {gpu} is unknown"
    elif not fitting:
        lack = f"the {gpu} has only {format_gib(free)} of VRAM free"
    else:
        reason = f"it needs {needs[fitting - 1]} of VRAM in 4 bits, "
        reason += f"and the {gpu} has {format_gib(free)} free"
        if fitting < len(others):
            reason += f"; {others[fitting].name} would need {needs[fitting]}"
        return Recommendation(others[fitting - 1].name, reason)
    small, disk = FOR_CPU.name, report.disk_free_bytes
    if report.no_cuda_reason:
        needed, is_free = FOR_CPU.cpu_ram_bytes, "are available"
        room, memory, does, quantization = report.ram_available_bytes, "RAM", "a CPU can run", None
    else:
        needed, is_free = FOR_CPU.needs_vram_bytes, "are free"
        room, memory, does, quantization = free, "VRAM in 4 bits", "takes less", "4bit"
    if room is None and quantization:
        missing = f"needs {format_gib(needed)} of {memory}"
    elif room is not None and room < needed:
        missing = f"needs {format_gib(needed)} of {memory}, and {format_gib(room)} {is_free}"
    elif report.hub_problem:
        missing = f"cannot be had ({report.hub_problem})"
    elif disk is not None and disk < FOR_CPU.download_bytes:
        missing = f"takes {format_gib(FOR_CPU.download_bytes)} of disk, "
        missing += f"and {format_gib(disk)} are free"
    else:
        reason = f"{lack}; it is a real LLaVA that {does}, in {format_gib(needed)} of {memory}"
        return Recommendation(small, reason, quantization)
    return Recommendation(embedded.name, f"{lack}, and {small}, which {does}, {missing}")


def compute_dtype_name(capability: tuple[int, int] | None) -> tuple[str, str]:
    """Return the number format to compute in, by torch's name for it, and the reason.

    `capability` is the GPU's compute capability, None without a CUDA GPU.
    """
    if capability is None:
        return "float32", "without a CUDA GPU the model computes on the CPU, in float32"
    # "Compute Capabilities" in NVIDIA's CUDA programming guide: bfloat16 units from Ampere on.
    written = dotted(capability)
    if tuple(capability) >= (8, 0):
        return "bfloat16", f"compute capability {written} has bfloat16 units (from 8.0 on)"
    return "float16", (
        f"compute capability {written} has no bfloat16 units; "
        "torch.cuda.is_bf16_supported() says True there and is wrong"
    )


def _judge(model: ModelInfo, report: GpuReport) -> Verdict:
    """Compare what the model needs in 4 bits with what is free."""
    needed, gpu = model.needs_vram_bytes, report.gpu
    if gpu and not gpu.problem:
        free, memory, owner = gpu.free_bytes, "VRAM", f"the {gpu.name}"
    elif model.hub_id:
        why = f"needs {format_gib(needed)} of VRAM in 4 bits, and {report.no_cuda_reason}"
        return Verdict(model.name, "4bit", False, needed, None, why)
    else:
        free, memory, owner = report.ram_available_bytes, "RAM", "this machine"
    fits = free is not None and free >= needed
    outcome = f"fits with {format_gib(free - needed)} to spare" if fits else "cannot tell"
    if free is not None and not fits:
        outcome = f"does not fit: {format_gib(needed - free)} short"
    why = f"{outcome} (needs {format_gib(needed)} of {memory} in 4 bits; "
    why += f"{owner} has {format_gib(free)} free)"
    return Verdict(model.name, "4bit", fits, needed, free, why)


def _rows(report: GpuReport) -> Iterator[tuple[str, str, str]]:
    """(mark, label, text) of each line: OK, -- (absent, and no fault) or FAIL (needs a repair)."""
    yield "OK", "place", f"{PLACES[report.place]}, {platform.system()} {platform.machine()}"
    if not report.gpus:
        mark = "--" if report.gpu_problem in (None, NO_DRIVER, NO_GPU) else "FAIL"
        yield mark, "GPU", f"no CUDA GPU ({report.gpu_problem or 'none was found'})"
    for gpu in report.gpus:
        capability = dotted(gpu.capability) if gpu.capability else "unknown"
        memory = f"{format_gib(gpu.free_bytes)} of VRAM free of {format_gib(gpu.total_bytes)}"
        chosen = ", the one to use" if gpu is report.gpu and len(report.gpus) > 1 else ""
        text = f"{gpu.name}, compute capability {capability}, {memory}{chosen}"
        yield ("--" if gpu.problem else "OK"), f"GPU {gpu.index}", text
    if report.gpus:
        limit = f", CUDA up to {report.driver_cuda}" if report.driver_cuda else ""
        is_old = f"driver {report.driver} goes" in (report.no_cuda_reason or "")
        mark = "FAIL" if is_old else "OK" if report.driver else "--"
        yield mark, "driver", (report.driver or "unknown") + limit
    yield "OK", "compute dtype", f"{report.compute_dtype}: {report.compute_dtype_reason}"
    for package, version in report.versions.items():
        if version is None:
            yield "FAIL", package, "not installed"
            continue
        is_torch, old = package == "torch", _too_old(package, version)
        build = f", {_torch_build(report)}" if is_torch else ""
        needed = f", {old} or later is supported" if old else ""
        is_broken = is_torch and report.gpu and report.no_cuda_reason
        yield ("FAIL" if old or is_broken else "OK"), package, f"{version}{build}{needed}"
    available, disk = report.ram_available_bytes, report.disk_free_bytes
    ram = f"{format_gib(available)} available of {format_gib(report.ram_total_bytes)}"
    yield ("--" if available is None else "OK"), "RAM", ram
    yield ("--" if disk is None else "OK"), "disk", f"{format_gib(disk)} free"
    for verdict in report.verdicts:
        yield ("OK" if verdict.fits else "--"), verdict.model, verdict.why
    yield "OK", "auto takes", str(recommend(report))


def _torch_build(report: GpuReport) -> str:
    sees = {True: ", sees the GPU", False: ", sees no GPU"}.get(report.torch_sees_gpu, "")
    if report.torch_sees_gpu is None and report.torch_problem:
        sees = f", {report.torch_problem}"
    if report.torch_rocm:
        return f"ROCm {report.torch_rocm}{sees}"
    return (f"CUDA {report.torch_cuda}" if report.torch_cuda else "CPU build") + sees


def _too_old(package: str, version: str) -> str | None:
    """The lowest version that is supported, if this one is older."""
    lowest = SUPPORTED.get(package)
    return lowest if lowest and _numbers(version) < _numbers(lowest) else None


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version: "2.11.0+cu128" is [2, 11, 0]."""
    return [int(number) for number in re.match(r"(\d+\.?)*", version)[0].split(".") if number]


def _fault(report: GpuReport) -> tuple[str | None, str]:
    """Why no model runs on a GPU here, or None; and the step that mends it."""
    gpu, problem, menu = report.gpu, report.gpu_problem or NO_DRIVER, GPU_MENUS.get(report.place)
    torch = f"torch {report.versions.get('torch')}"
    if not gpu:
        if problem == machine.HIDDEN:
            return problem, "Unset that variable and start Python again."
        if problem == machine.NO_PACKAGE:
            return problem, "Run: pip install nvidia-ml-py, then start Python again."
        if problem not in (NO_DRIVER, NO_GPU):
            return problem, (
                "Restart the machine; if that does not help, "
                f"install the driver again from {DRIVERS}."
            )
        if menu:
            return "no GPU is attached", f"Choose {menu}."
        if report.torch_rocm:
            return f"{torch} is for AMD's GPUs (ROCm) and finds none", 'Stay with load("tiny").'
        return problem, (
            "With an NVIDIA GPU in this machine, install the "
            f"driver from {DRIVERS} and restart; without one, open the notebook in "
            'Colab and choose a T4 GPU, or stay with the embedded model: load("tiny").'
        )
    if gpu.problem:
        other = f"Choose another GPU: {menu}" if menu else 'Stay with load("tiny")'
        older = f", or install a torch for it by {TORCH_COMMANDS}" if "torch" in gpu.problem else ""
        return gpu.problem, f"{other}{older}."
    if report.torch_sees_gpu:
        return None, ""
    if report.versions.get("torch") is None:
        return f"torch, which would use the {gpu.name}, is not installed", ""  # see MISSING
    if report.torch_cuda is None:
        build = "for AMD's GPUs" if report.torch_rocm else "a CPU build"
        return f"the installed {torch} is {build} and cannot use the {gpu.name}", (
            "Run: pip install --force-reinstall torch, then start Python again "
            f"(on Windows, take the command from {TORCH_COMMANDS})."
        )
    # A later minor version is no obstacle: NVIDIA's "CUDA minor version compatibility".
    newest = report.driver_cuda
    if newest and _numbers(report.torch_cuda)[:1] > _numbers(newest)[:1]:
        needs = f"{torch} needs CUDA {report.torch_cuda}"
        return f"{needs}, and driver {report.driver} goes up to CUDA {newest}", (
            f"Update the driver from {DRIVERS}, "
            f"or take the command for an older CUDA version from {TORCH_COMMANDS}."
        )
    if report.torch_sees_gpu is False:
        why = f" ({report.torch_problem})" if report.torch_problem else ""
        return f"{torch} was asked and cannot use the {gpu.name}{why}", (
            "Start Python again (in a notebook, restart its runtime); if that does not help, "
            f"install torch again by {TORCH_COMMANDS}."
        )
    return None, ""


def _repairs(report: GpuReport) -> Iterator[str]:
    """The steps for this report, the most important first; none where all is well."""
    reason, step = _fault(report)
    if step:
        starts_with_a_name = reason.startswith(("torch", "nvidia"))
        yield f"{reason if starts_with_a_name else reason[0].upper() + reason[1:]}. {step}"
    # Where another process holds what the smallest model needs, say so.
    free, total = report.vram_free_bytes, report.vram_total_bytes
    needed = min(model.needs_vram_bytes for model in known_models() if model.hub_id)
    if free is not None and total is not None and free < needed <= total:
        yield (
            f"{format_gib(total - free)} of {format_gib(total)} of VRAM are taken. Call "
            "llava_nb.free_vram(), or restart the other notebook or process that holds them "
            "(nvidia-smi lists it)."
        )
    for package, version in report.versions.items():
        if version is None and package in MISSING:
            yield MISSING[package]
        elif version and (lowest := _too_old(package, version)):
            step = f'Run: pip install "{package}>={lowest}", then start Python again.'
            if report.place == "colab" and package != "bitsandbytes":  # which Colab does not have
                step = "Choose Runtime > Change runtime type > Runtime version > Latest, "
                step += "then Runtime > Run all."
            oldest = f"older than {lowest}, the oldest that llava_nb supports"
            yield f"{package} {version} is {oldest}. {step}"
