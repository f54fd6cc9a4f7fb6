"""The rows of a table of captions: one picture each, with its caption or its error.

Not covered: how a row is written (`forms.py`), files of rows (`journal.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ..answer import Answer
from ..errors import LlavaNbError


@dataclass(frozen=True, slots=True)
class Row:
    """One picture and its caption.

    `seconds` run from the beginning of its batch to its own last token, `tokens` are the new
    ones, `finish` is "eos", "limit" or "failed". A failed row has no caption, and its `error`
    says what to do. `sha256` is the hash of the file's bytes ("" if they could not be read),
    `bytes` its size, `modified` when it was changed: ISO 8601 in UTC, "" for an address.
    """

    file: str
    caption: str
    prompt: str
    model: str
    seconds: float
    tokens: int
    finish: str
    error: str = ""
    sha256: str = ""
    bytes: int | None = None
    modified: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no caption."""
        return self.finish == "failed"


COLUMNS = tuple(each.name for each in fields(Row))


def printable(text: str) -> str:
    """Return a name as text that any file can hold: bytes that are no UTF-8, and NUL, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def row_of(
    name: str, answer: Answer, prompt: str, model: str, stamp: tuple[str, int | None, str]
) -> Row:
    """Return the row of an answer; `stamp` is hash, size and time of the picture's file."""
    error = answer.error
    return Row(
        file=name,
        caption=printable(answer.text),
        prompt=printable(prompt),
        model=printable(model),
        seconds=round(answer.seconds, 3),
        tokens=answer.tokens,
        finish=answer.finish,
        error="" if error is None else f"{type(error).__name__}: {printable(str(error))}",
        sha256=stamp[0],
        bytes=stamp[1],
        modified=stamp[2],
    )


def failed_row(
    name: str, error: Exception, prompt: str, model: str, stamp: tuple[str, int | None, str]
) -> Row:
    """Return the row of a picture that has no caption."""
    repair = error if isinstance(error, LlavaNbError) else None
    answer = Answer("", 0, 0.0, 0.0, None, "failed", error=repair)
    row = row_of(name, answer, prompt, model, stamp)
    if repair is not None:
        return row
    told = f"{type(error).__name__}: {printable(str(error))}"
    return Row(**asdict(row) | {"error": told})
