"""What llava_nb raises when a person can put it right, and how text and bytes stand in a message.

Every message is the repair: what is wrong, with the numbers, and the next step. Faults of our own
stay ordinary exceptions.
"""

from __future__ import annotations


class LlavaNbError(Exception):
    """The base of every error that llava_nb raises on purpose."""


class ImageError(LlavaNbError):
    """A picture could not be read: missing, unreachable, damaged or too large."""


class ModelError(LlavaNbError):
    """A model could not be found, loaded or used as asked."""


class DoesNotFitError(ModelError):
    """A model needs more disk, RAM or VRAM than there is."""


class OutOfVramError(LlavaNbError):
    """The memory ran out while a model was loading or answering."""


class PromptError(LlavaNbError):
    """A prompt, its pictures and its settings do not go together."""


def plain(text: object, limit: int = 120) -> str:
    """Foreign text for a message: one line, nothing that steers a terminal, shortened."""
    line = str(text)
    if len(line) > limit:
        line = line[: limit - 33] + "..." + line[-30:]
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


def storable(text: str) -> str:
    """Foreign text for any file: halves of characters, and NUL, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def format_gib(count: int | None) -> str:
    """Write a number of bytes as GiB (2^30 bytes): `format_gib(15633743872)` is "14.56 GiB"."""
    return "unknown" if count is None else f"{count / 2**30:.2f} GiB"
