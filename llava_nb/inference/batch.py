"""Many pictures and questions at once: what a GPU is made for.

A step of the model reads all its weights, for one answer or for eight; so answers come
several times faster together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from ..errors import ImageError, LlavaNbError, OutOfVramError, PromptError
from ..images import open_image
from ..prompts import check_question
from .answer import Answer, Settings, check_batch_size
from .engine import Engine

# One picture, or something that holds one. Files are rows of lines to Python.
_SINGLE = (str, bytes, bytearray, memoryview, Mapping, Image.Image)


def ask_batch(
    engine: Engine, images: Any, prompts: Any, batch_size: Any, settings: Settings
) -> list[Answer]:
    """Answer all; see `Llava.ask_batch`."""
    size, tokenizer = check_batch_size(batch_size), engine.processor.tokenizer
    pictures, questions = several(images), _questions(prompts)
    if isinstance(questions, str):  # one for all
        questions = [questions] * (1 if pictures is None else len(pictures))
    if pictures is None:
        pictures = [images] * len(questions)
    if len(pictures) != len(questions):
        raise PromptError(
            f"There are {len(pictures)} pictures and {len(questions)} prompts. Give one prompt for "
            "each picture, or a single one for all."
        )
    pairs = list(zip(pictures, questions, strict=True))
    # Questions of similar length go together, because shorter ones are filled up.
    lengths = [len(tokenizer(question)["input_ids"]) for question in questions]
    waiting = sorted(range(len(pairs)), key=lengths.__getitem__)
    answers: dict[int, Answer] = {}
    while waiting:
        group = waiting[:size]
        try:
            done = _answer_group(engine, [pairs[place] for place in group], settings)
        except OutOfVramError as error:
            if len(group) > 1:
                size = (len(group) + 1) // 2  # and no larger again: it would not fit
                continue
            done = [Answer.failed(error)]
        answers.update(zip(group, done, strict=True))
        waiting = waiting[len(group) :]
    return [answers[place] for place in range(len(pairs))]


def several(images: Any) -> list[Any] | None:
    """Return what was given as a list, or None where it is one picture or none at all.

    Several are a list, a generator, a column of pandas, an array of pictures; a text is the path
    of one. Raises PromptError for what has no order.
    """
    kind = type(images).__name__
    if isinstance(images, set | frozenset):
        raise PromptError(f"The pictures are a {kind}, which has no order: give sorted(images).")
    if kind == "DataFrame":
        raise PromptError('The pictures are a whole table: give one column of it, table["image"].')
    if isinstance(images, _SINGLE) or hasattr(images, "read"):
        return None
    if kind == "Tensor" or (kind == "ndarray" and _is_one_picture(images)):
        return None
    return list(images) if isinstance(images, Iterable) else None


def one_or_several(image: Any) -> list[Any]:
    """Return a picture, or several, as a list. Raises ImageError for an empty one."""
    images = several(image)
    if images == []:
        raise ImageError(
            "There is no picture in what was given: give a picture, several of them, or None."
        )
    return [image] if images is None else images


def sources_of(engine: Engine, image: Any) -> list[Any]:
    """Return the pictures of one question: none, one, or several for a model that takes them."""
    if image is None:
        return []
    return one_or_several(image) if engine.takes_several else [image]


def _is_one_picture(array: Any) -> bool:
    """Whether an array is a picture: (height, width), perhaps with 1, 3 or 4 channels."""
    if array.dtype.kind not in "buif":  # paths, or pictures as objects
        return array.ndim == 0
    return array.ndim < 3 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))


def _questions(prompts: Any) -> str | list[str]:
    """Return the question for all, or a list of questions, checked."""
    is_row = isinstance(prompts, Iterable) and getattr(prompts, "ndim", 1) == 1
    if isinstance(prompts, (*_SINGLE, set, frozenset)) or not is_row:
        return check_question(prompts)  # which says what it is
    try:
        given, questions = list(prompts), []
    except (TypeError, ValueError, OSError):  # such as of a closed file
        return check_question(prompts)
    for number, prompt in enumerate(given, 1):
        try:
            questions.append(check_question(prompt))
        except PromptError as error:
            raise PromptError(f"Of {len(given)} prompts, number {number}: {error}") from None
    return questions


def _answer_group(
    engine: Engine, pairs: Sequence[tuple[Any, str]], settings: Settings
) -> list[Answer]:
    """Answer some at once, in their order; those that cannot be read fail alone.

    Pictures are opened as their turn comes, so that thousands take the memory of one batch.
    Raises OutOfVramError if they do not fit together.
    """
    if settings.stop is not None and settings.stop.is_set():
        return [Answer("", finish="stopped")] * len(pairs)
    started = time.perf_counter()
    answers: list[Answer | None] = []
    pictures, texts = [], []
    for image, question in pairs:
        answer = None
        try:
            sources = sources_of(engine, image)
            is_alone = len(sources) == 1
            shown = [engine.shrink(open_image(each), is_alone=is_alone) for each in sources]
            texts.append(engine.prompt_text([(question, None)], len(shown)))
            pictures.append(shown)
        except LlavaNbError as error:
            answer = Answer.failed(error, seconds=time.perf_counter() - started)
        answers.append(answer)
    done = iter(engine.answer_batch(pictures, texts, settings, started) if texts else ())
    return [next(done) if answer is None else answer for answer in answers]
