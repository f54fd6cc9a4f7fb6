"""What keeps an exception, and with it every tensor of its frames; and how to let go.

An exception holds its traceback, the traceback every frame, and the frames their variables.
Python keeps the last one of a session, IPython keeps it in two more places. Covered:
clearing these, and the frames of one exception. Not covered: what was displayed (`Out`,
`_`) and variables, which are the person's own.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import Any

_KEPT_BY_PYTHON = ("last_exc", "last_value", "last_traceback", "last_type")


def forget_exceptions() -> None:
    """Clear what Python and IPython keep of the last exception.

    Measured on IPython 7.34.0 and 9.18.1: the frames are held by `sys.last_*`, by the
    printer of tracebacks, and by the result of the last cell. Unless all three are
    cleared, nothing is free within the same cell.
    """
    for error in list(_kept_exceptions()):
        forget_frames(error)
    for name in _KEPT_BY_PYTHON:
        if hasattr(sys, name):
            delattr(sys, name)
    shell = _shell()
    if shell is None:
        return
    for printer in (shell.InteractiveTB, shell.SyntaxTB):
        printer.tb = None
    shell.SyntaxTB.last_syntax_error = None
    result = shell.last_execution_result
    if result is not None:
        result.error_in_exec = result.error_before_exec = None


def forget_frames(error: BaseException) -> None:
    """Clear the variables in the frames of an exception and of those that led to it.

    Frames that are still running keep theirs. The exception loses its traceback.
    """
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
        waiting += [each.__cause__, each.__context__]


def _kept_exceptions() -> Iterator[BaseException]:
    result = getattr(_shell(), "last_execution_result", None)
    for holder, name in (
        (sys, "last_exc"),
        (sys, "last_value"),
        (result, "error_in_exec"),
        (result, "error_before_exec"),
    ):
        error = getattr(holder, name, None)
        if isinstance(error, BaseException):
            yield error


def _shell() -> Any:
    """The IPython shell that this runs in, or None; IPython is not imported for it."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None
