"""A conversation about one picture, which the model reads once.

Each question is asked with everything said before it, as the model was trained; what the model
has read of that is kept by the engine. A conversation is only its text and its picture: taking
a turn back, or going on with another conversation in between, needs no care.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import ImageError, PromptError
from ..images import open_image
from ..prompts import check_question
from .answer import MAX_NEW_TOKENS, Answer, AnswerStream, Settings, Stop, no_room
from .batch import several
from .engine import Engine, Picture, Request

GAP = 0.02  # of the height, between two pictures
HEIGHT = 672  # pixels, twice what LLaVA-1.5 looks at; higher pictures are made smaller
WIDTH = 16_384  # pixels of a row: 42 MiB at that height, whatever the pictures' shapes


@dataclass(frozen=True, eq=False)
class Turn:
    """A question and its answer."""

    question: str
    answer: Answer

    def __str__(self) -> str:
        return f"{self.question}\n{self.answer.text}"


class Chat:
    """A conversation. Made by `Llava.chat()`.

    `image` is the picture that is talked about, None without one; `turns` what was said.
    With `forget_oldest` the oldest turns are no longer given to the model when it is full;
    `forgotten` counts them, and they stay in `turns`.
    """

    def __init__(self, engine: Engine, image: Any = None, *, forget_oldest: bool = False) -> None:
        self._engine, self.forget_oldest = engine, forget_oldest
        self._picture = Picture.of(one_picture(image))
        self.turns: list[Turn] = []
        self.forgotten = 0

    def __repr__(self) -> str:
        about = "a picture" if self._picture else "no picture"
        return f"<Chat about {about}, {len(self.turns)} turn(s), {self.tokens} tokens>"

    @property
    def image(self) -> Image.Image | None:
        """The picture as opened; of several, the collage."""
        return self._picture.image if self._picture else None

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said, in the form that chat libraries use."""
        return [
            {"role": role, "content": text}
            for turn in self.turns
            for role, text in (("user", turn.question), ("assistant", turn.answer.text))
        ]

    @property
    def tokens(self) -> int:
        """How many tokens the last prompt and its answer took; 0 before the first."""
        if not self.turns:
            return 0
        answer = self.turns[-1].answer
        return answer.prompt_tokens + answer.tokens

    @property
    def context(self) -> int:
        """How many tokens the model holds."""
        return self._engine.context

    def prompt_text(self, question: str) -> str:
        """Return the exact text that the model would be given for a question asked now."""
        history = self._history(check_question(question), self.turns)
        return self._engine.prompt_text(history, int(self._picture is not None))

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Ask, wait for the answer, and add both to the conversation.

        Settings and errors are those of `Llava.ask`; if one is raised, nothing is added. When
        the model is full, PromptError says by how much and what to do.
        """
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        question = check_question(question)
        return self._add(question, self._engine.answer(self._prepare(question, settings)))

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Give the answer in pieces; joined, they are `ask`'s text.

        The turn is added at the end. Leaving the loop early ends the answer, and what was
        said by then is added.
        """
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        question = check_question(question)
        stream = self._prepare(question, settings)
        return self._engine.pieces(stream, lambda answer: self._add(question, answer))

    def go_on(
        self,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Go on with an answer that stopped at the limit or was stopped; give the new pieces.

        At the end the longer answer takes the place of the last one. Its `seconds` are those
        of going on. Raises PromptError if there is no such answer.
        """
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        if not self.turns or self.turns[-1].answer.finish == "eos":
            raise PromptError("There is no unfinished answer to go on with: chat.ask(...).")
        started, turn = time.perf_counter(), self.turns[-1]
        request = self._request(turn.question, self.turns[:-1], begun=turn.answer.ids)
        stream = self._stream(request, settings, started)
        return self._engine.pieces(stream, lambda answer: self._add(turn.question, answer, turn))

    def undo(self) -> Turn:
        """Take back the last question with its answer, and return them."""
        if not self.turns:
            raise PromptError("There is nothing to take back: ask something first, chat.ask(...).")
        turn = self.turns.pop()
        self.forgotten = min(self.forgotten, len(self.turns))
        return turn

    def regenerate(
        self,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Ask the last question again, in place of its answer.

        With temperature 0 the same question gives the same answer; 0.7 gives others. If
        it fails, the old answer stays. Raises PromptError if nothing has been asked.
        """
        turn, stream = self._again(Settings(max_new_tokens, temperature, top_p, stop))
        return self._add(turn.question, self._engine.answer(stream), turn)

    def stream_again(
        self,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Do as `regenerate`, and give the new answer in pieces."""
        turn, stream = self._again(Settings(max_new_tokens, temperature, top_p, stop))
        return self._engine.pieces(stream, lambda answer: self._add(turn.question, answer, turn))

    def _again(self, settings: Settings) -> tuple[Turn, AnswerStream]:
        if not self.turns:
            raise PromptError("There is nothing to answer again: ask something first, chat.ask().")
        return self.turns[-1], self._prepare(self.turns[-1].question, settings, self.turns[:-1])

    def _add(self, question: str, answer: Answer, old: Turn | None = None) -> Answer:
        """Add a turn, or put it in the place of an old one, if that has not been taken back."""
        if old is None:
            self.turns.append(Turn(question, answer))
        elif old in self.turns:
            self.turns[self.turns.index(old)] = Turn(question, answer)
        return answer

    def _history(self, question: str, before: list[Turn]) -> list[tuple[str, str | None]]:
        """Everything that the model is given: the turns that are not forgotten, the question."""
        given = [(turn.question, turn.answer.text) for turn in before[self.forgotten :]]
        return [*given, (question, None)]

    def _request(self, question: str, before: list[Turn], begun: tuple[int, ...] = ()) -> Request:
        history = self._history(question, before)
        return self._engine.request(self._picture, history, whole=True, begun=begun)

    def _prepare(
        self, question: str, settings: Settings, before: list[Turn] | None = None
    ) -> AnswerStream:
        started, forgotten = time.perf_counter(), self.forgotten
        before = self.turns if before is None else before
        try:
            request = self._request(question, before)
            while self._is_short(request, settings) and self.forgotten < len(before):
                self.forgotten += 1
                request = self._request(question, before)
            return self._stream(request, settings, started)
        except PromptError:
            self.forgotten = forgotten
            raise

    def _is_short(self, request: Request, settings: Settings) -> bool:
        """Whether the oldest turn has to go, so that the answer has the room it may take."""
        return self.forget_oldest and request.tokens + settings.max_new_tokens > self.context

    def _stream(self, request: Request, settings: Settings, started: float) -> AnswerStream:
        if request.tokens >= self.context and self.turns and not self.forget_oldest:
            raise no_room(
                request.tokens,
                self.context,
                "With this question the conversation",
                "Take turns back, chat.undo(), begin again, llava.chat(image), or let the oldest "
                "go, llava.chat(image, forget_oldest=True).",
            )
        return self._engine.stream(request, settings, started)


def one_picture(image: Any) -> Any:
    """Return what was given, or several pictures laid side by side."""
    images = several(image)
    if images is None:
        return image
    if not images:
        raise ImageError(
            "There is no picture in what was given: chat(image) takes a picture, several of them, "
            "or None."
        )
    if len(images) == 1:
        return images[0]
    warnings.warn(
        f"LLaVA-1.5 was trained on one picture at a time. These {len(images)} are laid side by "
        'side as one; ask about "the left picture", or chat about each on its own.',
        stacklevel=4,  # the line that called Llava.chat()
    )
    # One after the other, each made small before the next is opened.
    return side_by_side(_small(open_image(each)) for each in images)


def side_by_side(pictures: Iterable[Image.Image]) -> Image.Image:
    """Return the pictures in a row, left to right, all of one height, white between them.

    The height is that of the highest, at most 672 pixels, and less where the row would be wider
    than 16,384 pixels.
    """
    pictures = list(pictures)
    height = min(max(picture.height for picture in pictures), HEIGHT)
    shape = sum(picture.width / picture.height for picture in pictures)  # of the row, per height
    height = max(min(height, int(WIDTH / shape)), 1)
    scaled = [_resized(picture, height / picture.height, height) for picture in pictures]
    gap = max(round(GAP * height), 1)
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _small(picture: Image.Image) -> Image.Image:
    """Return the picture no higher and no wider than it can be in a row."""
    factor = min(HEIGHT / picture.height, WIDTH / picture.width)
    return picture if factor >= 1 else _resized(picture, factor, round(picture.height * factor))


def _resized(picture: Image.Image, factor: float, height: int) -> Image.Image:
    width = min(max(round(picture.width * factor), 1), WIDTH)
    return picture.resize((width, max(height, 1)))
