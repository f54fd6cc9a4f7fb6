"""The report of `check_gpu()`: its fields, and how they read as text and as HTML.

Covered: `GpuReport` and `Verdict`, frozen, and their lines marked OK, -- (absent, and
no fault) or FAIL (needs a repair).
Not covered: where the facts come from (`runtime.py`) and the repairs (`advice.py`).
"""

from __future__ import annotations

import html
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import catalog
from .facts import unsupported, version_numbers
from .nvidia import NOT_FOUND, Gpu
from .sizes import format_gib

PLACES = {"colab": "Google Colab", "kaggle": "Kaggle", "local": "local"}
Row = tuple[str, str, str]  # mark, label, text


@dataclass(frozen=True)
class Verdict:
    """Whether a model fits this machine, and by how much. Memory in bytes, None is unknown.

    The memory is VRAM. Without a CUDA GPU it is RAM for the embedded model, and
    unknown for the others, which need a GPU.
    """

    model: str
    quantization: str | None
    fits: bool
    needed_bytes: int
    free_bytes: int | None
    why: str


@dataclass(frozen=True)
class GpuReport:
    """What `check_gpu` found. Memory in bytes; None is unknown or missing.

    `gpus` are those that CUDA_VISIBLE_DEVICES leaves; `gpu_problem` says why there are
    none. `driver_cuda` is the newest CUDA version the driver supports, `torch_cuda`
    the one torch was built for, None for a CPU build. `torch_sees_gpu` is None unless
    torch was asked. `bitsandbytes_library` is the file bitsandbytes loads beside this
    torch. `str()` is text for a bug report: no names, paths, tokens or environment.
    """

    place: str = "local"
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    driver: str | None = None
    driver_cuda: str | None = None
    torch_cuda: str | None = None
    torch_sees_gpu: bool | None = None
    bitsandbytes_library: str | None = None
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
        """The GPU to use: the one with the most free VRAM, the first among equals; or None."""
        return max(self.gpus, key=lambda gpu: gpu.free_bytes or 0, default=None)

    @property
    def gpu_name(self) -> str | None:
        """The name of the GPU to use, such as "Tesla T4"."""
        return self.gpu.name if self.gpu else None

    @property
    def capability(self) -> tuple[int, int] | None:
        """Its compute capability, such as (7, 5)."""
        return self.gpu.capability if self.gpu else None

    @property
    def vram_total_bytes(self) -> int | None:
        """Its memory."""
        return self.gpu.total_bytes if self.gpu else None

    @property
    def vram_free_bytes(self) -> int | None:
        """What was free of its memory when the report was made."""
        return self.gpu.free_bytes if self.gpu else None

    @property
    def driver_too_old(self) -> bool:
        """Whether torch was built for a later major CUDA version than the driver supports.

        A later minor version is no obstacle: NVIDIA's "CUDA minor version compatibility".
        """
        if not (self.torch_cuda and self.driver_cuda):
            return False
        return version_numbers(self.torch_cuda)[:1] > version_numbers(self.driver_cuda)[:1]

    @property
    def no_cuda_reason(self) -> str | None:
        """Why nothing runs on a GPU here, without a full stop; None where models would."""
        torch, name = self.versions.get("torch"), self.gpu_name
        if name is None:
            return "there is no CUDA GPU"
        if self.torch_sees_gpu:
            return None
        if torch is None:
            return f"torch, which would use the {name}, is not installed"
        if self.torch_cuda is None:
            return f"the installed torch {torch} is a CPU build and cannot use the {name}"
        if self.driver_too_old:
            cuda, limit = self.torch_cuda, self.driver_cuda
            return f"torch {torch} needs CUDA {cuda}, and the driver goes up to CUDA {limit}"
        if self.torch_sees_gpu is False:
            return f"torch {torch} was asked and cannot use the {name}"
        return None

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


def _rows(report: GpuReport) -> Iterator[Row]:
    yield "OK", "place", f"{PLACES[report.place]}, {platform.system()} {platform.machine()}"
    yield from _gpu_rows(report)
    yield "OK", "compute dtype", f"{report.compute_dtype}: {report.compute_dtype_reason}"
    yield from _package_rows(report)
    available, total = format_gib(report.ram_available_bytes), format_gib(report.ram_total_bytes)
    yield _mark(report.ram_available_bytes), "RAM", f"{available} available of {total}"
    yield _mark(report.disk_free_bytes), "disk", f"{format_gib(report.disk_free_bytes)} free"
    for verdict in report.verdicts:
        yield ("OK" if verdict.fits else "--"), verdict.model, verdict.why
    yield "OK", "auto takes", str(catalog.recommend(report))


def _gpu_rows(report: GpuReport) -> Iterator[Row]:
    if not report.gpus:
        mark = "--" if report.gpu_problem in (None, NOT_FOUND) else "FAIL"
        yield mark, "GPU", f"no CUDA GPU ({report.gpu_problem or 'none was found'})"
        return
    for gpu in report.gpus:
        capability = ".".join(map(str, gpu.capability)) if gpu.capability else "unknown"
        memory = f"{format_gib(gpu.free_bytes)} of VRAM free of {format_gib(gpu.total_bytes)}"
        chosen = ", the one to use" if gpu is report.gpu and len(report.gpus) > 1 else ""
        text = f"{gpu.name}, compute capability {capability}, {memory}{chosen}"
        yield "OK", f"GPU {gpu.index}", text
    limit = f", CUDA up to {report.driver_cuda}" if report.driver_cuda else ""
    mark = "FAIL" if report.driver_too_old and not report.torch_sees_gpu else _mark(report.driver)
    yield mark, "driver", (report.driver or "unknown") + limit


def _package_rows(report: GpuReport) -> Iterator[Row]:
    notes = {"torch": f"CUDA {report.torch_cuda}" if report.torch_cuda else "CPU build"}
    if report.torch_sees_gpu is not None:
        notes["torch"] += ", sees the GPU" if report.torch_sees_gpu else ", sees no GPU"
    notes["bitsandbytes"] = report.bitsandbytes_library or "no library for this torch"
    broken = {"torch": bool(report.gpu and report.no_cuda_reason)}
    broken["bitsandbytes"] = report.bitsandbytes_library is None
    for package, version in report.versions.items():
        if version is None:
            yield "FAIL", package, "not installed"
            continue
        old = unsupported(package, version)
        note = ", ".join(filter(None, (version, notes.get(package), old)))
        yield ("FAIL" if old or broken.get(package) else "OK"), package, note


def _mark(value: object) -> str:
    return "--" if value is None else "OK"
