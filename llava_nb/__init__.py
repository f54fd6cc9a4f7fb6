"""llava_nb: LLaVA-1.5 in a notebook, in 4 bits, on a free GPU or on none.

    from llava_nb import load
    llava = load()                                  # the best model this machine runs
    picture, caption = llava.caption_image("cat.jpg", "Describe this picture.")

The names in `__all__` are imported when they are first used (PEP 562): `import llava_nb` itself
loads none of torch, transformers, ipywidgets, matplotlib or PIL, so a first cell answers at once.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "check_gpu": "gpu",
    "load": "loading.load",
    "estimate_vram": "loading.fit",
    "vram_report": "vram.report",
    "track_vram": "vram.track",
    "VramLog": "vram.track",
    "free_vram": "vram.report",
    "caption_panel": "panel.panel",
    "caption_folder": "folder.run",
    "FolderResult": "folder.run",
    "open_image": "images",
    "example_picture": "images",
    "Answer": "inference.answer",
    "Llava": "inference.llava",
    "LlavaNbError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "DoesNotFitError": "errors",
    "OutOfVramError": "errors",
    "PromptError": "errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"{__name__} has no name {name!r}; it has: {', '.join(_HOMES)}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
