"""Where the memory is, how much a stretch of code took, and having it back."""

from __future__ import annotations

import weakref
from typing import Any

_engines: list[weakref.ref] = []


def register(engine: Any) -> None:
    """Note a loaded model's engine; it is not kept alive by that."""
    _engines.append(weakref.ref(engine, _engines.remove))


def open_engines() -> list[Any]:
    """Return the engines of the models that are loaded and not closed, the newest last."""
    engines = [reference() for reference in tuple(_engines)]
    return [engine for engine in engines if engine is not None and not engine.closed]
