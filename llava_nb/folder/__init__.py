"""A folder of pictures becomes a table: `from llava_nb import caption_folder`.

`call.py` is where it begins, `command.py` the same from a shell. Nothing is imported here before
it is used: the command line would wait for torch to show its help.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `caption_folder` and its result at their first use (PEP 562)."""
    if name == "caption_folder":
        from .call import caption_folder

        return caption_folder
    if name == "FolderResult":
        from .result import FolderResult

        return FolderResult
    raise AttributeError(f"llava_nb.folder has no name {name!r}")
