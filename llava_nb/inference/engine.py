"""The model at work: the one place where `generate` is called.

A picture is always read apart from the words that follow it. So a question gives the same
numbers, to the last bit, whether the model has just read the picture or remembers it; read
in one go they would differ in the last digits, and now and then a word with them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import DynamicCache, StoppingCriteria

from ..errors import ModelError
from ..images import open_image
from ..processor import Spelling, encode, encode_text, prompt_text, shrink
from ..prompts import build, check_question
from ..sizes import (
    ANSWER_TOKENS,
    Work,
    activation_bytes,
    context_of,
    kv_bytes_per_token,
    shape_of,
)
from ..vram import register
from ..vram.free import or_out_of_vram, smaller_steps
from ..vram.track import Peak, peak_on
from .answer import Answer, AnswerStream, Settings, Stop, no_room
from .kv_cache import (
    CACHE_ARGUMENT,
    Prefix,
    PrefixCache,
    Room,
    cache_for_batch,
    free_bytes,
    take_layers,
)

Turns = Sequence[tuple[str, str | None]]

STRIP_PIXELS = 2**22
SHORT_ANSWER = 128  # tokens; most descriptions are no longer
UNUSED = 1.1  # times what is needed, for what lies unused between blocks
_TEXT = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Picture:
    """An opened picture, and a fingerprint by which it is known again."""

    image: Image.Image
    fingerprint: bytes = field(init=False)

    def __post_init__(self) -> None:
        # SHA-256: the quickest where the processor has instructions for it, as all of today's
        # have. In strips: `tobytes` holds what it returns twice, 0.6 GiB for the largest picture.
        pixels, (width, height) = hashlib.sha256(), self.image.size
        rows = max(STRIP_PIXELS // max(width, 1), 1)
        for top in range(0, height, rows):
            strip = self.image.crop((0, top, width, min(top + rows, height)))
            pixels.update(strip.tobytes())
        pixels.update(repr(self.image.size).encode())
        object.__setattr__(self, "fingerprint", pixels.digest())

    @classmethod
    def of(cls, source: Any) -> Picture | None:
        """Open whatever `open_image` takes; None stays None. Raises ImageError."""
        return None if source is None else cls(open_image(source))


@dataclass(frozen=True)
class Request:
    """One prompt, ready for the model.

    `ids` is (1, tokens), on the CPU, and ends with `begun`, the tokens of an answer that is gone
    on with. The picture's last token stands before `picture_end`; both are without meaning if
    `picture`, its fingerprint, is None. `see` gives what the vision tower is given, by name.
    `whole`: whether the answer is remembered as well.
    """

    ids: torch.Tensor
    picture: bytes | None
    picture_end: int
    see: Callable[[], dict[str, Any]]
    whole: bool = False
    begun: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens the model is given."""
        return self.ids.shape[1]


class StopWhen(StoppingCriteria):
    """Ends every row of a batch once `stop.is_set()`."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return one truth value a row, as generate expects."""
        rows, enough = input_ids.shape[0], bool(self._stop.is_set())
        return torch.full((rows,), enough, device=input_ids.device, dtype=torch.bool)


class Engine:
    """A network with its processor, what it remembers, and the lock that one answer holds.

    No variable of its methods holds the network itself: the frames of an error outlive it in a
    notebook, and `close()` would free nothing.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        *,
        name: str,
        quantization: str | None,
        style: str | None,
        spelling: Spelling | None,
    ) -> None:
        self._network, self._processor = network, processor
        self.name, self.quantization, self.spelling = name, quantization, spelling
        self._style = style
        self.prefixes = PrefixCache()
        # The same thread takes it twice where somebody's `stop.is_set()` asks or closes.
        self.lock = threading.RLock()
        register(self)

    @property
    def network(self) -> Any:
        """The transformers model. Raises ModelError once closed."""
        if self._network is None:
            raise ModelError(f'{self.name} has been closed. Load it again: load("{self.name}").')
        return self._network

    @property
    def processor(self) -> Any:
        """The transformers processor. Raises ModelError once closed."""
        return self._processor if self.network is not None else None

    @property
    def closed(self) -> bool:
        """True once the model has been released."""
        return self._network is None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """What the unquantised parts are stored in and all is computed in."""
        return self.network.dtype

    @property
    def context(self) -> int:
        """How many tokens the model holds, of prompt and answer together."""
        return context_of(self.network.config)

    @property
    def style(self) -> str | None:
        """The conversation's name; None for the model's own chat template."""
        return self._style

    @style.setter
    def style(self, name: str | None) -> None:
        if name is not None:
            build([("", None)], str(name))  # raises PromptError for a name that is none
        self._style = name

    def close(self) -> None:
        """Let go of the model. An answer under way in another thread ends first."""
        with self.lock:
            self._network = self._processor = None
            self.prefixes.clear()

    def prompt_text(self, turns: Turns, images: int) -> str:
        """Return the exact text that the model is given. Raises PromptError."""
        return prompt_text(self.processor, turns, images, style=self.style, spelling=self.spelling)

    def shrink(self, picture: Image.Image) -> Image.Image:
        """Return a picture in the size that the model looks at."""
        return shrink(picture, self.processor, original=self.spelling is not None)

    def prepare(self, image: Any, prompt: Any, settings: Settings) -> AnswerStream:
        """Turn what a person gives into an answer to be made, of which nothing has run yet.

        Raises ImageError, PromptError or, if the model has been closed, ModelError.
        """
        started, _ = time.perf_counter(), self.network
        question = check_question(prompt)  # first: a picture in its place is told at once
        request = self.request(Picture.of(image), [(question, None)])
        return self.stream(request, settings, started)

    def request(
        self,
        picture: Picture | None,
        turns: Turns,
        *,
        whole: bool = False,
        begun: tuple[int, ...] = (),
    ) -> Request:
        """Turn a picture (or None), and questions with their answers, into a request.

        A picture that the model remembers is not made into pixels again unless it has to be.
        """
        text = self.prompt_text(turns, int(picture is not None))
        if picture is None:
            ids = encode(self.processor, [], [text], self.spelling)["input_ids"]
            return Request(_with(ids, begun), None, 0, dict, whole, begun)
        token = self.network.config.image_token_id
        tokens = self.prefixes.picture_tokens(picture.fingerprint, token)
        inputs = None
        if tokens is None:
            inputs = encode(self.processor, [picture.image], [text], self.spelling)
            ids = inputs["input_ids"]
        else:
            ids = encode_text(self.processor, text, tokens, self.spelling)

        def see() -> dict[str, Any]:
            # What it remembered may be gone by the time that it is asked.
            return self._pixels(
                inputs or encode(self.processor, [picture.image], [text], self.spelling)
            )

        end = int((ids[0] == token).nonzero()[-1]) + 1
        return Request(_with(ids, begun), picture.fingerprint, end, see, whole, begun)

    def stream(self, request: Request, settings: Settings, started: float) -> AnswerStream:
        """Return the answer to be made. Raises PromptError if there is no room for any."""
        if request.tokens >= self.context:
            raise no_room(request.tokens, self.context)
        tokenizer = self.processor.tokenizer
        return AnswerStream([request.tokens], tokenizer, settings, self.context, started, request)

    def answer(self, stream: AnswerStream) -> Answer:
        """Generate one answer until the end, the limit or the stop. Raises OutOfVramError."""
        peak = self.guarded(lambda: self._answer(stream), stream.limit)
        return stream.answers(self._ends(), peak.highest)[0]

    def pieces(
        self, stream: AnswerStream, keep: Callable[[Answer], Any] = lambda answer: None
    ) -> Iterator[str]:
        """Yield an answer's text as it grows, made in a thread; raise whatever goes wrong there.

        Nothing runs before the first piece is asked for. Leaving the loop early ends the
        generation and waits for it. `keep` is given the answer, before the last piece is read.
        """
        left = stream.listen()
        run = (lambda: keep(self.answer(stream)),)
        worker = threading.Thread(target=stream.work, args=run, daemon=True)
        worker.start()
        try:
            yield from stream.pieces()
        finally:
            left.set()
            worker.join()

    def answer_batch(
        self,
        pictures: Sequence[Image.Image | None],
        texts: Sequence[str],
        settings: Settings,
        started: float,
    ) -> list[Answer]:
        """Answer prompts at once, each with its picture or none; nothing is remembered of them.

        A prompt that leaves no room for an answer fails alone. Raises OutOfVramError.
        """
        shown = [picture for picture in pictures if picture is not None]
        inputs = encode(self.processor, shown, texts, self.spelling)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        stream = AnswerStream(lengths, self.processor.tokenizer, settings, self.context, started)
        fitting = [row for row, limit in enumerate(stream.limits) if limit]
        if len(fitting) == len(texts):
            peak = self.guarded(lambda: self._answer_batch(inputs, stream), stream.limit)
            return stream.answers(self._ends(), peak.highest)
        answers = [
            Answer.failed(no_room(length, self.context), prompt_tokens=length) for length in lengths
        ]
        if fitting:  # without the others, for whose length they would be filled up
            rest = [[each[row] for row in fitting] for each in (pictures, texts)]
            for row, answer in zip(
                fitting, self.answer_batch(*rest, settings, started), strict=True
            ):
                answers[row] = answer
        return answers

    def guarded(self, work: Callable[[], None], answer_tokens: int) -> Peak:
        """Do the work, no other with this model meanwhile, and return the peak.

        An out-of-memory becomes OutOfVramError; what the model remembered is given up for it.
        """

        def forget_and_advise() -> list[str]:
            self.prefixes.clear()
            return smaller_steps(self.network.config, self.quantization, answer_tokens)

        with self.lock, peak_on(self.device) as peak:
            or_out_of_vram(work, "answering", self.device, forget_and_advise)
        return peak

    def _answer(self, stream: AnswerStream) -> None:
        request, prompt = stream.request, stream.request.tokens
        self.prefixes.make_room(prompt + stream.limit, self.device)
        with torch.inference_mode():
            room = Room(prompt + min(stream.limit, ANSWER_TOKENS), prompt + stream.limit)
            cache, stream.reused = self._read_picture(request, room)
            inputs = {"input_ids": request.ids, "attention_mask": torch.ones_like(request.ids)}
            self._generate(inputs, cache, stream)
        if request.whole:
            # The last token has been chosen, not read.
            self._remember(request, _with(request.ids, stream.new_ids()[:-1])[0], cache)
        elif request.picture is not None:
            self._remember(request, request.ids[0, : request.picture_end], cache)

    def _answer_batch(self, inputs: Any, stream: AnswerStream) -> None:
        rows, padded = inputs["input_ids"].shape
        self.prefixes.make_room(rows * (padded + stream.limit), self.device)
        room = self.room_for_batch(rows, padded, stream.limit)
        with torch.inference_mode():
            given = {name: inputs[name] for name in _TEXT} | self._pixels(inputs)
            self._generate(given, cache_for_batch(self.network, rows, room), stream)

    def _generate(self, inputs: dict[str, Any], cache: DynamicCache, stream: AnswerStream) -> None:
        stop = None if stream.stop is None else [StopWhen(stream.stop)]
        self.network.generate(
            **self._on_device(inputs),
            **stream.arguments,
            **{CACHE_ARGUMENT: cache},
            streamer=stream,
            stopping_criteria=stop,
        )

    def _read_picture(self, request: Request, room: Room) -> tuple[DynamicCache, int]:
        """Return a cache with the picture in it, and how many tokens it held already."""
        ids, end = request.ids[0], request.picture_end
        cache, reused = self.prefixes.start(ids, request.picture, end, room, whole=request.whole)
        if request.picture is None or reused:
            return cache, reused
        inputs = {"input_ids": request.ids[:, :end], **request.see()}
        # The inner model: the head would only give next words that nobody asks for.
        inputs = self._on_device({**inputs, CACHE_ARGUMENT: cache})
        self.network.model(**inputs, use_cache=True)
        return cache, 0

    def _remember(self, request: Request, ids: torch.Tensor, cache: DynamicCache) -> None:
        if self.prefixes.limit_bytes:
            layers = take_layers(cache, len(ids))
            self.prefixes.keep(Prefix(ids, request.picture, request.picture_end, layers))

    def room_for_batch(self, rows: int, padded: int, limit: int) -> Room:
        """Return room for the longest answers that are allowed, or for short ones.

        Blocks that are full are made anew, which takes time, and memory for both. But room for the
        longest answer in every row may be more than is free, and answers end before.
        """
        shape, size = shape_of(self.network.config), self.dtype.itemsize
        question = max(padded - shape.image_tokens, 0)
        work = Work(prompt_tokens=question, new_tokens=limit, batch=rows)
        needed = rows * (padded + limit) * kv_bytes_per_token(shape, size)
        needed += activation_bytes(shape, self.quantization, work, size)
        free = free_bytes(self.device)
        is_free = free is None or UNUSED * needed <= free
        return Room(padded + (limit if is_free else min(limit, SHORT_ANSWER)), padded + limit)

    def _pixels(self, inputs: Any) -> dict[str, Any]:
        """Return what of a processor's output the vision tower is given."""
        seen = {name: value for name, value in inputs.items() if name not in _TEXT}
        if "pixel_values" in seen:
            seen["pixel_values"] = seen["pixel_values"].to(self.dtype)
        return seen

    def _ends(self) -> list[int]:
        ends = self.network.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }


def _with(ids: torch.Tensor, more: Sequence[int]) -> torch.Tensor:
    """Return ids, (1, tokens), with more behind."""
    return torch.cat([ids, torch.tensor([more], dtype=torch.long)], dim=1) if more else ids
