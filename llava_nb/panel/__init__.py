"""The upload-and-prompt panel: `from llava_nb import caption_panel`.

`box.py` puts it together. What it does next is decided by plain functions (`state.py` and what
it calls), which know neither widgets nor threads; so nothing is imported here before it is used.
"""

from __future__ import annotations

from .. import on_first_use

__getattr__ = on_first_use(
    __name__, dict.fromkeys(("caption_panel", "CaptionPanel", "EXAMPLES"), "box")
)
