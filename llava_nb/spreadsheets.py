"""Text in a table stays text: what a spreadsheet would run as a formula is marked.

Not covered: writing tables (`panel/record.py`, `folder/forms.py`).
"""

from __future__ import annotations

from typing import Any

# A cell that begins so is a formula to some spreadsheet: OWASP, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def safe_cell(value: Any) -> Any:
    """Return a value for CSV; text that a spreadsheet would run begins with an apostrophe."""
    runs = isinstance(value, str) and value.lstrip(" ").startswith(FORMULA_STARTS)
    return f"'{value}" if runs else value
