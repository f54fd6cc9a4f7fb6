"""A folder of pictures becomes a table: `from llava_nb import caption_folder`."""

from __future__ import annotations

from .. import on_first_use

__getattr__ = on_first_use(__name__, {"caption_folder": "run", "FolderResult": "result"})
