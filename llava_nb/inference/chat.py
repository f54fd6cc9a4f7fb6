"""A conversation about one picture, which the model reads once.

Each question is asked with everything said before it; what the model has read of that is kept by
the engine. So a conversation is only its text and its picture, and a turn is taken back at no cost.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import PromptError
from ..prompts import check_question
from .answer import Answer, Generation, Settings, takes_settings
from .engine import Engine, Picture, one_or_several

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
    `forgotten` counts them, and they stay in `turns`. `waiting`, where it is set, is called each
    second with the seconds that a picture has been read, and then with None, by what gives pieces.

    What asks takes the settings of `Llava.ask` and raises its errors; if one is raised, the
    conversation stays as it was.
    """

    def __init__(self, engine: Engine, image: Any = None, *, forget_oldest: bool = False) -> None:
        self._engine, self.forget_oldest = engine, forget_oldest
        self._picture: Picture | None = None
        if image is not None:
            sources = one_or_several(image)
            if len(sources) > 1 and not engine.takes_several:
                warnings.warn(
                    "LLaVA-1.5 was trained on one picture at a time. These "
                    f"{len(sources)} are laid side by side as one; ask about "
                    '"the left picture", or chat about each on its own.',
                    stacklevel=3,  # the line that called Llava.chat()
                )
                sources = [side_by_side(Picture(each).images[0] for each in sources)]
            self._picture = Picture(*sources)
        self.turns: list[Turn] = []
        self.forgotten = 0
        self.waiting: Callable[[float | None], None] | None = None

    def __repr__(self) -> str:
        about = "a picture" if self._picture else "no picture"
        return f"<Chat about {about}, {len(self.turns)} turn(s), {self.tokens} tokens>"

    @property
    def image(self) -> Image.Image | None:
        """The picture as opened; of several, the collage."""
        if self._picture is None:
            return None
        images = self._picture.images
        return images[0] if len(images) == 1 else side_by_side(images)

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
        answer = self.turns[-1].answer if self.turns else Answer("")
        return answer.prompt_tokens + answer.tokens

    @property
    def context(self) -> int:
        """How many tokens the model holds."""
        return self._engine.context

    def prompt_text(self, question: str) -> str:
        """Return the exact text that the model would be given for a question asked now."""
        history = self._history(check_question(question), self.turns)
        return self._engine.prompt_text(history, len(self._picture.images) if self._picture else 0)

    @takes_settings
    def ask(self, question: str, *, settings: Settings) -> Answer:
        """Ask, wait for the answer, and add both to the conversation.

        When the model is full, PromptError says by how much and what to do.
        """
        question = check_question(question)
        generation = self._prepare(question, self.turns, settings)
        return self._add(question, self._engine.answer(generation))

    @takes_settings
    def stream(self, question: str, *, settings: Settings) -> Iterator[str]:
        """Give the answer in pieces; joined, they are `ask`'s text.

        The turn is added at the end. Leaving the loop early ends the answer and adds it so far.
        """
        question = check_question(question)
        return self._pieces(question, self._prepare(question, self.turns, settings))

    @takes_settings
    def go_on(self, *, settings: Settings) -> Iterator[str]:
        """Go on with an answer that stopped at the limit or was stopped; give the new pieces.

        At the end the longer answer takes the place of the last one. Its `seconds` are those
        of going on. Raises PromptError if there is no such answer.
        """
        if not self.turns or self.turns[-1].answer.finish == "eos":
            raise PromptError("There is no unfinished answer to go on with: chat.ask(...).")
        turn, before = self.turns[-1], self.turns[:-1]
        generation = self._prepare(turn.question, before, settings, turn.answer.ids)
        return self._pieces(turn.question, generation, turn)

    def undo(self) -> Turn:
        """Take back the last question with its answer, and return them."""
        if not self.turns:
            raise PromptError("There is nothing to take back: ask something first, chat.ask(...).")
        turn = self.turns.pop()
        self.forgotten = min(self.forgotten, len(self.turns))
        return turn

    @takes_settings
    def regenerate(self, *, settings: Settings) -> Answer:
        """Ask the last question again, in place of its answer.

        With temperature 0 the same question gives the same answer; 0.7 gives others. Raises
        PromptError if nothing has been asked.
        """
        turn, generation = self._again(settings)
        return self._add(turn.question, self._engine.answer(generation), turn)

    @takes_settings
    def stream_again(self, *, settings: Settings) -> Iterator[str]:
        """Do as `regenerate`, and give the new answer in pieces."""
        turn, generation = self._again(settings)
        return self._pieces(turn.question, generation, turn)

    def _again(self, settings: Settings) -> tuple[Turn, Generation]:
        if not self.turns:
            raise PromptError("There is nothing to answer again: ask something first, chat.ask().")
        turn = self.turns[-1]
        return turn, self._prepare(turn.question, self.turns[:-1], settings)

    def _pieces(
        self, question: str, generation: Generation, old: Turn | None = None
    ) -> Iterator[str]:
        answer = self._engine.answer
        return generation.pieces(lambda: self._add(question, answer(generation), old), self.waiting)

    def _add(self, question: str, answer: Answer, old: Turn | None = None) -> Answer:
        """Add a turn, or put it in the place of an old one, if that has not been taken back."""
        if old is None:
            self.turns.append(Turn(question, answer))
        elif old in self.turns:
            self.turns[self.turns.index(old)] = Turn(question, answer)
        return answer

    def _history(self, question: str, before: list[Turn]) -> list[tuple[str, str | None]]:
        """Everything that the model is given: turns that are not forgotten, and the question."""
        given = [(turn.question, turn.answer.text) for turn in before[self.forgotten :]]
        return [*given, (question, None)]

    def _prepare(
        self, question: str, before: list[Turn], settings: Settings, begun: tuple[int, ...] = ()
    ) -> Generation:
        """Return what is to be generated, with the oldest turns forgotten if they have to go."""
        started, forgotten = time.perf_counter(), self.forgotten
        while True:
            history = self._history(question, before)
            generation = self._engine.prepare(
                self._picture, history, settings, started, whole=True, begun=begun
            )
            # Not for an answer that is gone on with: that keeps what it was begun after.
            has_room = generation.lengths[0] + settings.max_new_tokens <= self.context
            if has_room or begun or not self.forget_oldest or self.forgotten >= len(before):
                break
            self.forgotten += 1
        if generation.limit:
            return generation
        self.forgotten = forgotten
        if self.turns and not self.forget_oldest:
            raise generation.no_room(
                what="With this question the conversation",
                repair="Take turns back, chat.undo(), begin again, llava.chat(image), or let the "
                "oldest go, llava.chat(image, forget_oldest=True).",
            )
        raise generation.no_room()


def side_by_side(pictures: Iterable[Image.Image]) -> Image.Image:
    """Return the pictures in a row, left to right, all of one height, white between them."""
    # One after the other, each made small before the next is opened.
    pictures = [
        _at_height(each, min(each.height, HEIGHT, WIDTH * each.height // each.width))
        for each in pictures
    ]
    shape = sum(picture.width / picture.height for picture in pictures)  # of the row, per height
    height = min(max(picture.height for picture in pictures), int(WIDTH / shape))
    scaled = [_at_height(picture, height) for picture in pictures]
    gap = max(round(GAP * scaled[0].height), 1)
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    row = Image.new("RGB", (width, scaled[0].height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _at_height(picture: Image.Image, height: int) -> Image.Image:
    width = min(max(round(picture.width * height / picture.height), 1), WIDTH)
    return picture.resize((width, max(height, 1)))
