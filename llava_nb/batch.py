"""Many pictures and questions at once: what a GPU is made for.

A step of the model reads all its weights, for one answer or for eight; so answers come
several times faster together. Questions of similar length go together, because shorter
ones are filled up on the left. Pictures are opened as their turn comes, so that a folder of
thousands takes the memory of one batch.

Covered: order, groups, a group that does not fit, a picture that cannot be read. Not
covered: folders and tables (`folder/`); pictures read before (`prefix_cache.py`): nothing
is kept of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from .answer import Answer
from .collage import several
from .errors import LlavaNbError, OutOfVramError, PromptError
from .images import open_image
from .inputs import context_of, pixels_of
from .preallocated import Room, cache_for_batch
from .prefix_cache import CACHE_ARGUMENT, free_bytes
from .processor import encode
from .prompts import check_question
from .rows import Rows
from .running import call_generate, guarded
from .settings import Settings, Stop, check_batch_size
from .sizes import Work, activation_bytes, kv_bytes_per_token, shape_of

if TYPE_CHECKING:
    from .llava import Llava

SHORT_ANSWER = 128  # tokens; most descriptions are no longer
UNUSED = 1.1  # times what is needed, for what lies unused between


@dataclass(frozen=True)
class Item:
    """One picture (anything `open_image` takes, or None) and its question."""

    image: Any
    prompt: str


def ask_batch(
    llava: Llava,
    images: Any,
    questions: str | Sequence[str],
    batch_size: int,
    settings: Settings,
    stop: Stop | None,
) -> list[Answer]:
    """Answer all; see `Llava.ask_batch`."""
    batch_size = check_batch_size(batch_size)
    items = pair_up(images, questions)
    answers: list[Answer | None] = [None] * len(items)
    waiting = sorted(range(len(items)), key=lambda at: _length(llava, items[at]))
    while waiting:
        group, rest = waiting[:batch_size], waiting[batch_size:]
        try:
            done = answer_group(llava, [items[at] for at in group], settings, stop)
        except OutOfVramError as error:
            if len(group) > 1:
                batch_size = (len(group) + 1) // 2  # and no larger again: it would not fit
                continue
            done = [_failed(error)]
        for at, answer in zip(group, done, strict=True):
            answers[at] = answer
        waiting = rest
    return answers


def pair_up(images: Any, prompts: Any) -> list[Item]:
    """Return each picture with its question; one of either goes with all of the other.

    Raises PromptError if there are two numbers of them, or one of the questions is none.
    """
    pictures, questions = several(images), _questions(prompts)
    if isinstance(questions, str):
        questions = [questions] * (1 if pictures is None else len(pictures))
    if pictures is None:
        pictures = [images] * len(questions)
    if len(pictures) != len(questions):
        raise PromptError(
            f"There are {len(pictures)} pictures and {len(questions)} prompts. Give one prompt for "
            "each picture, or a single one for all."
        )
    return [Item(*each) for each in zip(pictures, questions, strict=True)]


def _questions(prompts: Any) -> str | list[str]:
    """Return the question for all, or a list of questions, checked."""
    if isinstance(prompts, Mapping | set | frozenset | bytes | bytearray | Image.Image):
        return check_question(prompts)  # which says what it is
    try:
        given = None if isinstance(prompts, str) else list(prompts)
    except (TypeError, ValueError, OSError):  # the latter two of files
        given = None
    if given is None:
        return check_question(prompts)
    questions = []
    for place, each in enumerate(given, 1):
        try:
            questions.append(check_question(each))
        except PromptError as error:
            raise PromptError(f"Of {len(given)} prompts, number {place}: {error}") from None
    return questions


def _length(llava: Llava, item: Item) -> int:
    """How long the question is, in tokens; its picture is not opened for that."""
    return len(llava.processor.tokenizer(item.prompt)["input_ids"])


def answer_group(
    llava: Llava, items: Sequence[Item], settings: Settings, stop: Stop | None
) -> list[Answer]:
    """Answer some items at once, in their order; those that cannot be read fail alone.

    Raises OutOfVramError if they do not fit together.
    """
    if stop is not None and stop.is_set():
        return [Answer("", 0, 0.0, 0.0, None, "stopped") for _ in items]
    started = time.perf_counter()
    answers: list[Answer | None] = [None] * len(items)
    readable, opened = [], []
    for at, item in enumerate(items):
        try:
            opened.append(_open(llava, item))
            readable.append(at)
        except LlavaNbError as error:
            answers[at] = _failed(error, time.perf_counter() - started)
    for at, answer in zip(readable, _answer(llava, opened, settings, stop, started), strict=True):
        answers[at] = answer
    return answers


def _open(llava: Llava, item: Item) -> tuple[Image.Image | None, str]:
    """Return the picture and the whole prompt. Raises ImageError or PromptError."""
    picture = None if item.image is None else open_image(item.image)
    text = llava.prompt_text(item.prompt, images=int(picture is not None))
    return picture, text


def _answer(
    llava: Llava,
    opened: Sequence[tuple[Image.Image | None, str]],
    settings: Settings,
    stop: Stop | None,
    started: float,
) -> list[Answer]:
    """Generate for all at once."""
    if not opened:
        return []
    pictures = [picture for picture, _ in opened if picture is not None]
    inputs = encode(llava.processor, pictures, [text for _, text in opened], llava.spelling)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    rows = Rows(lengths, settings, context_of(llava._open()), started)
    if rows.limit:  # else not one of the prompts leaves room for an answer
        ends = llava._open().generation_config.eos_token_id
        peak = guarded(llava, lambda: _generate(llava, inputs, rows, stop), rows.limit)
        return rows.answers(llava.processor.tokenizer, peak.highest, ends)
    return rows.answers(llava.processor.tokenizer, None, None)


def _generate(llava: Llava, inputs: Any, rows: Rows, stop: Stop | None) -> None:
    number, padded = inputs["input_ids"].shape
    llava.prefixes.make_room(number * (padded + rows.limit), llava.device)
    room = _room(llava, number, padded, rows.limit)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        seen = pixels_of(inputs, llava._open().dtype)
        cache = cache_for_batch(llava._open(), number, room)
        arguments = {**rows.arguments, CACHE_ARGUMENT: cache}
        call_generate(llava, {**text, **seen}, arguments, rows, stop)


def _room(llava: Llava, number: int, padded: int, limit: int) -> Room:
    """Return room for the longest answers that are allowed, or for short ones if that is not free.

    Blocks that are full are made anew, which takes time, and memory for both. But room for the
    longest answer in every row may be more than is free, and answers end before.
    """
    network, most = llava._open(), padded + limit
    shape, size = shape_of(network.config), network.dtype.itemsize
    question = max(padded - shape.image_tokens, 0)
    work = Work(prompt_tokens=question, new_tokens=limit, batch=number)
    needed = number * most * kv_bytes_per_token(shape, size)
    needed += activation_bytes(shape, llava.quantization, work, size)
    free = free_bytes(llava.device)
    if free is None or UNUSED * needed <= free:
        return Room(most, most)
    return Room(padded + min(limit, SHORT_ANSWER), most)


def _failed(error: LlavaNbError, seconds: float = 0.0) -> Answer:
    return Answer("", 0, seconds, seconds, None, "failed", error=error)
