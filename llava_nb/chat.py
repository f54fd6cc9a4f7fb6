"""A conversation about one picture, which the model reads once.

Each question is asked with everything said before it, as the model was trained; what the
model has read of that already stays in its keys and values (`prefix_cache.py`). A
conversation is only its text and its picture: taking a turn back, asking again or going
on with another conversation in between needs no care.

Not covered: generating (`llava.py`), the form of the prompt (`prompts.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from .answer import Answer
from .collage import one_picture
from .errors import PromptError
from .generation import AnswerStream
from .inputs import Picture, Request, context_of, prompt_text, request_for
from .prompts import check_question
from .running import run
from .settings import Settings, Stop
from .streaming import pieces

if TYPE_CHECKING:
    from PIL import Image

    from .llava import Llava


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
    With `forget_oldest` the oldest turns are no longer told to the model when it is full;
    `forgotten` counts them, and they stay in `turns`.
    """

    def __init__(self, llava: Llava, image: Any = None, *, forget_oldest: bool = False) -> None:
        self._llava, self.forget_oldest = llava, forget_oldest
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
            {"role": role, "content": said}
            for turn in self.turns
            for role, said in (("user", turn.question), ("assistant", turn.answer.text))
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
        return context_of(self._llava._open())

    def prompt_text(self, question: str) -> str:
        """Return the exact text that the model would be given for a question asked now."""
        told = self._told(check_question(question))
        return prompt_text(self._llava, told, int(self._picture is not None))

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Ask, wait for the answer, and add both to the conversation.

        Takes what `Llava.ask` takes and raises what it raises; then nothing is added. When
        the model is full, PromptError says by how much and what to do.
        """
        question = check_question(question)
        stream = self._prepare(question, Settings(max_new_tokens, temperature, top_p, stop))
        answer = run(self._llava, stream, stop)
        self.turns.append(Turn(question, answer))
        return answer

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Give the answer in pieces; joined, they are `ask`'s text.

        The turn is added at the end. Leaving the loop early ends the answer, and what was
        said by then is added.
        """
        question = check_question(question)
        stream = self._prepare(question, Settings(max_new_tokens, temperature, top_p, stop))
        return self._pieces(question, stream, stop)

    def _pieces(
        self, question: str, stream: AnswerStream, stop: Stop | None, replaced: Turn | None = None
    ) -> Iterator[str]:
        def work(stream: AnswerStream, either: Stop) -> None:
            answer = run(self._llava, stream, either)
            if replaced is None:
                self.turns.append(Turn(question, answer))
            elif replaced in self.turns:  # else it was taken back meanwhile
                self.turns[self.turns.index(replaced)] = Turn(question, answer)

        yield from pieces(stream, work, stop)

    def go_on(
        self,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[str]:
        """Go on with an answer that stopped at the limit or was stopped; give the new pieces.

        At the end the longer answer takes the place of the last one. Its `seconds` are those
        of going on. Raises PromptError if there is no such answer.
        """
        if not self.turns or self.turns[-1].answer.finish == "eos":
            raise PromptError("There is no unfinished answer to go on with: chat.ask(...).")
        started, turn = time.perf_counter(), self.turns.pop()
        settings = Settings(max_new_tokens, temperature, top_p, stop)
        try:
            request = self._request(turn.question)
            ids = torch.cat([request.ids, torch.tensor([turn.answer.ids], dtype=torch.long)], dim=1)
            stream = self._stream(replace(request, ids=ids), settings, started, turn.answer.ids)
        finally:
            self.turns.append(turn)
        return self._pieces(turn.question, stream, stop, turn)

    def undo(self) -> Turn:
        """Take back the last question with its answer, and return them."""
        if not self.turns:
            raise PromptError("There is nothing to take back: ask something first, chat.ask(...).")
        turn = self.turns.pop()
        self.forgotten = min(self.forgotten, len(self.turns))
        return turn

    def regenerate(self, **settings: Any) -> Answer:
        """Ask the last question again, in place of its answer; takes what `ask` takes.

        With temperature 0 the same question gives the same answer; 0.7 gives others. If
        it fails, the old answer stays.
        """
        turn, forgotten = self.undo(), self.forgotten
        try:
            return self.ask(turn.question, **settings)
        except BaseException:
            self.turns.append(turn)
            self.forgotten = forgotten
            raise

    def _told(self, question: str) -> list[tuple[str, str | None]]:
        """Everything that the model is told: the turns that are not forgotten, the question."""
        turns = self.turns[self.forgotten :]
        return [*((turn.question, turn.answer.text) for turn in turns), (question, None)]

    def _prepare(self, question: str, settings: Settings) -> AnswerStream:
        started, before = time.perf_counter(), self.forgotten
        request = self._request(question)
        while self._short_of(request, settings) and self.forgotten < len(self.turns):
            self.forgotten += 1
            request = self._request(question)
        try:
            return self._stream(request, settings, started)
        except PromptError:
            self.forgotten = before
            raise

    def _stream(
        self, request: Request, settings: Settings, started: float, said: Sequence[int] = ()
    ) -> AnswerStream:
        if request.ids.shape[1] >= self.context:
            raise self._full(request.ids.shape[1])
        tokenizer = self._llava.processor.tokenizer
        return AnswerStream(request, tokenizer, settings, self.context, started, said)

    def _request(self, question: str) -> Request:
        return request_for(self._llava, self._picture, self._told(question), whole=True)

    def _short_of(self, request: Request, settings: Settings) -> bool:
        """Whether the oldest turn has to go, so that the answer has the room it may take."""
        return self.forget_oldest and (
            request.ids.shape[1] + settings.max_new_tokens > self.context
        )

    def _full(self, tokens: int) -> PromptError:
        repair = "Shorten it."
        if self.turns and not self.forget_oldest:
            repair = (
                "Take turns back, chat.undo(), begin again, llava.chat(image), or let the oldest "
                "go, llava.chat(image, forget_oldest=True)."
            )
        return PromptError(
            f"With this question the conversation has {tokens} tokens, picture included, and the "
            f"model holds {self.context}, the answer included. {repair}"
        )
