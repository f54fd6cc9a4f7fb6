"""llava_nb: LLaVA-1.5 in a notebook, in 4 bits, on a free GPU or on none.

    from . import load
    llava = load()                                  # the best model this machine runs
    picture, caption = llava.caption_image("cat.jpg", "Describe this picture.")

The names below are imported when they are first used: `import llava_nb` itself loads
none of torch, transformers, ipywidgets, matplotlib or PIL, so that a first cell
answers at once.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "check_gpu": "runtime",
    "load": "loading",
    "estimate_vram": "estimate",
    "vram_report": "vram",
    "track_vram": "tracking",
    "VramLog": "tracking",
    "free_vram": "recovery",
    "caption_panel": "panel",
    "caption_folder": "folder",
    "FolderResult": "folder",
    "open_image": "images",
    "example_picture": "pictures",
    "Answer": "answer",
    "Llava": "llava",
    "LlavaNbError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "DoesNotFitError": "errors",
    "OutOfVramError": "errors",
    "PromptError": "errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"llava_nb has no name {name!r}; it has: {', '.join(_HOMES)}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
