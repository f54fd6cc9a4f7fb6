"""The upload-and-prompt panel: `from llava_nb import caption_panel`.

`box.py` puts it together. What it does next is decided by plain functions (`state.py` and what
it calls), which know neither widgets nor threads; so nothing is imported here before it is used.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import what `box.py` offers at its first use (PEP 562)."""
    if name in ("caption_panel", "CaptionPanel", "EXAMPLES"):
        from . import box

        return getattr(box, name)
    raise AttributeError(f"llava_nb.panel has no name {name!r}")
