"""The model at work: the one place where `generate` is called.

A picture is always read apart from the words that follow it. So a question gives the same
numbers, to the last bit, whether the model has just read the picture or remembers it; read
in one go they would differ in the last digits, and now and then a word with them.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import DynamicCache

from ..errors import ImageError, LlavaNbError, ModelError, OutOfVramError, PromptError
from ..images import open_image
from ..processor import Spelling, encode, encode_text, prompt_text, shrink
from ..sizes import ANSWER_TOKENS, Work, activation_bytes, context_of, kv_bytes_per_token, shape_of
from ..vram.report import free_bytes, free_vram, or_out_of_vram, register, smaller_steps
from ..vram.track import Peak, peak_on
from .answer import Answer, Generation, Settings, check_batch_size, shown, whole_number
from .kv_cache import (
    CACHE_ARGUMENT,
    Prefix,
    PrefixCache,
    Room,
    cache_for_batch,
    take_layers,
)

STRIP_PIXELS = 2**22
SHORT_ANSWER = 128  # tokens; most descriptions are no longer
UNUSED = 1.1  # times what is needed, for what lies unused between blocks
_TEXT = ("input_ids", "attention_mask")
# One picture, or something that holds one. Files are rows of lines to Python.
_SINGLE = (str, bytes, bytearray, memoryview, Mapping, Image.Image)


class Picture:
    """What one question shows: a picture or several, of what `open_image` takes."""

    def __init__(self, *sources: Any) -> None:
        self.images = [open_image(source) for source in sources]

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """What a picture is known by when it comes again."""
        # SHA-256: the quickest where the processor has instructions for it, as all of today's
        # have. In strips: `tobytes` holds what it returns twice, 0.6 GiB for the largest picture.
        pixels = hashlib.sha256()
        for image in self.images:
            width, height = image.size
            rows = max(STRIP_PIXELS // max(width, 1), 1)
            for top in range(0, height, rows):
                strip = image.crop((0, top, width, min(top + rows, height)))
                pixels.update(strip.tobytes())
            pixels.update(repr(image.size).encode())
        return pixels.digest()


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
        self.name, self.quantization = name, quantization
        self.style, self.spelling = style, spelling
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
    def takes_several(self) -> bool:
        """Whether the model was trained on several pictures in one question."""
        # LLaVA-OneVision and LLaVA-Interleave were (the latter a "llava" on Qwen).
        config = self.network.config
        is_interleave = config.model_type == "llava" and config.text_config.model_type == "qwen2"
        return config.model_type == "llava_onevision" or is_interleave

    @property
    def views(self) -> str | None:
        """How pictures are shown; see `Llava.views`."""
        return getattr(self.processor.image_processor, "views", None)

    @views.setter
    def views(self, views: str) -> None:
        if self.views is None or views not in ("one", "tiles"):
            known = '"one" or "tiles"' if self.views else "not to be set: it knows one way only"
            raise ModelError(f"views is {shown(views)}; for {self.name} it is {known}.")
        with self.lock:
            if views != self.views:
                self.prefixes.clear()  # what it has read was shown otherwise
            self.processor.image_processor.views = views

    @property
    def closed(self) -> bool:
        """True once the model has been released."""
        return self._network is None

    @property
    def context(self) -> int:
        """How many tokens the model holds, of prompt and answer together."""
        return context_of(self.network.config)

    def close(self) -> None:
        """Give the model's memory back. An answer under way in another thread ends first."""
        with self.lock:
            self._network = self._processor = None
            self.prefixes.clear()
        free_vram()  # an exception of an earlier cell may still hold the model

    def prompt_text(self, turns: Sequence[tuple[str, str | None]], images: int) -> str:
        """Return the exact text that the model is given. Raises PromptError."""
        if (number := whole_number(images, lowest=0)) is None:
            raise PromptError(f"images is {shown(images)}; it is how many pictures there are.")
        return prompt_text(self.processor, turns, number, style=self.style, spelling=self.spelling)

    def sources(self, image: Any) -> list[Any]:
        """Return the pictures of one question: several only for a model that takes them."""
        if image is None:
            return []
        return one_or_several(image) if self.takes_several else [image]

    def prepare(
        self,
        picture: Picture | None,
        turns: Sequence[tuple[str, str | None]],
        settings: Settings,
        started: float,
        *,
        whole: bool = False,
        begun: tuple[int, ...] = (),
    ) -> Generation:
        """Return what is to be generated after questions and answers; nothing has run yet.

        A picture that the model remembers is not made into pixels again unless it has to be.
        """
        images = [] if picture is None else picture.images
        text = self.prompt_text(turns, len(images))
        token = self.network.config.image_token_id
        fingerprint = None if picture is None else picture.fingerprint
        known, end = self.prefixes.picture_tokens(fingerprint, token), 0
        # At most once: now, or later if what it remembered is gone by then.
        read = functools.cache(lambda: encode(self.processor, [images], [text], self.spelling))

        def see() -> dict[str, Any]:
            inputs = read().to(self.network.device, self.network.dtype)  # which casts pixels alone
            return {name: value for name, value in inputs.items() if name not in _TEXT}

        if known is None:
            ids = read()["input_ids"]
        else:
            ids = encode_text(self.processor, text, known, self.spelling)
        if picture is not None:
            end = int((ids[0] == token).nonzero()[-1]) + 1
        ids = torch.cat([ids, torch.tensor([begun], dtype=torch.long)], dim=1)
        rest = (ids, begun, fingerprint, end, see, whole)
        return self._generation([ids.shape[1]], settings, started, *rest)

    def answer(self, generation: Generation) -> Answer:
        """Generate one answer until the end, the limit or the stop. Raises OutOfVramError."""
        peak = self.guarded(lambda: self._answer(generation), generation.limit)
        return generation.answer(0, peak.highest)

    def ask_batch(
        self, images: Any, questions: str | list[str], batch_size: Any, settings: Settings
    ) -> list[Answer]:
        """Answer all, `batch_size` at once or as many as fit; see `Llava.ask_batch`.

        A step of the model reads all its weights, for one answer or for eight; so answers come
        several times faster together.
        """
        size, tokenizer = check_batch_size(batch_size), self.processor.tokenizer
        pictures = several(images)
        if isinstance(questions, str):  # one for all
            questions = [questions] * (1 if pictures is None else len(pictures))
        if pictures is None:
            pictures = [images] * len(questions)
        if len(pictures) != len(questions):
            raise PromptError(
                f"There are {len(pictures)} pictures and {len(questions)} prompts. Give one prompt "
                "for each picture, or a single one for all."
            )
        # Questions of similar length go together, because shorter ones are filled up.
        lengths = [len(tokenizer(question)["input_ids"]) for question in questions]
        waiting = sorted(range(len(pictures)), key=lengths.__getitem__)
        answers: dict[int, Answer] = {}
        while waiting:
            group = waiting[:size]
            pairs = [(pictures[place], questions[place]) for place in group]
            try:
                done = self._answer_group(pairs, settings)
            except OutOfVramError as error:
                if len(group) > 1:
                    size = (len(group) + 1) // 2  # and no larger again: it would not fit
                    continue
                done = [Answer.failed(error)]
            answers.update(zip(group, done, strict=True))
            waiting = waiting[len(group) :]
        return [answers[place] for place in range(len(pictures))]

    def _answer_group(self, pairs: Sequence[tuple[Any, str]], settings: Settings) -> list[Answer]:
        """Answer some at once, in their order; those that cannot be read fail alone."""
        if settings.stop is not None and settings.stop.is_set():
            return [Answer("", finish="stopped")] * len(pairs)
        started, is_original = time.perf_counter(), self.spelling is not None
        failed: dict[int, Answer] = {}
        pictures, texts = [], []
        # Opened as their turn comes, so that thousands take the memory of one batch.
        for place, (image, question) in enumerate(pairs):
            try:
                sources = self.sources(image)
                form = {"original": is_original, "is_alone": len(sources) == 1}
                small = [shrink(open_image(each), self.processor, **form) for each in sources]
                texts.append(self.prompt_text([(question, None)], len(small)))
                pictures.append(small)
            except LlavaNbError as error:
                failed[place] = Answer.failed(error, seconds=time.perf_counter() - started)
        done = iter(self._answer_texts(pictures, texts, settings, started) if texts else ())
        return [failed.get(place) or next(done) for place in range(len(pairs))]

    def _answer_texts(
        self,
        pictures: Sequence[list[Image.Image]],
        texts: Sequence[str],
        settings: Settings,
        started: float,
    ) -> list[Answer]:
        """Answer prompts at once; one that leaves no room for an answer fails alone."""
        inputs = encode(self.processor, pictures, texts, self.spelling)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        generation = self._generation(lengths, settings, started)
        fitting = [row for row, limit in enumerate(generation.limits) if limit]
        if len(fitting) == len(texts):
            peak = self.guarded(lambda: self._answer_batch(inputs, generation), generation.limit)
            return [generation.answer(row, peak.highest) for row in fitting]
        answers = [
            Answer.failed(generation.no_room(row), prompt_tokens=length)
            for row, length in enumerate(lengths)
        ]
        if fitting:  # without the others, for whose length they would be filled up
            rest = [[each[row] for row in fitting] for each in (pictures, texts)]
            done = self._answer_texts(*rest, settings, started)
            for row, answer in zip(fitting, done, strict=True):
                answers[row] = answer
        return answers

    def guarded(self, work: Callable[[], None], answer_tokens: int) -> Peak:
        """Do the work, no other with this model meanwhile, and return the peak.

        An out-of-memory becomes OutOfVramError; what the model remembered is given up for it.
        """

        def forget_and_advise() -> list[str]:
            self.prefixes.clear()
            return smaller_steps(self.network.config, self.quantization, answer_tokens)

        with self.lock:
            device = self.network.device
            with peak_on(device) as peak:
                or_out_of_vram(work, "answering", device, forget_and_advise)
        return peak

    def _generation(self, lengths: Sequence[int], *given: Any, **more: Any) -> Generation:
        ends = self.network.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return Generation(lengths, self.processor.tokenizer, ends, self.context, *given, **more)

    def _answer(self, generation: Generation) -> None:
        picture, end, whole = generation.picture, generation.picture_end, generation.whole
        ids, device = generation.ids, self.network.device
        tokens = ids.shape[1]
        room = Room(tokens + min(generation.limit, ANSWER_TOKENS), tokens + generation.limit)
        self.prefixes.make_room(room.most, lambda: free_bytes(device))
        with torch.inference_mode():
            cache, reused = self.prefixes.start(ids[0], picture, end, room, whole=whole)
            if picture is not None and not reused:
                inputs = {"input_ids": ids[:, :end].to(device), **generation.see()}
                # The inner model: the head would only give next words that nobody asks for.
                self.network.model(**inputs, **{CACHE_ARGUMENT: cache}, use_cache=True)
            generation.reused = reused
            inputs = {
                "input_ids": ids.to(device),
                "attention_mask": torch.ones_like(ids).to(device),
            }
            self._generate(inputs, cache, generation)
        if picture is None and not whole or not self.prefixes.limit_bytes:
            return
        read = ids[0, :end]
        if whole:  # the last token has been chosen, not read
            new = torch.tensor(generation.new_ids()[:-1], dtype=torch.long)
            read = torch.cat([ids[0], new])
        self.prefixes.keep(Prefix(read, picture, end, take_layers(cache, len(read))))

    def _answer_batch(self, inputs: Any, generation: Generation) -> None:
        rows, padded = inputs["input_ids"].shape
        device = self.network.device
        self.prefixes.make_room(rows * (padded + generation.limit), lambda: free_bytes(device))
        room = self.room_for_batch(rows, padded, generation.limit)
        with torch.inference_mode():
            cache = cache_for_batch(self.network, rows, room)
            there = inputs.to(device, self.network.dtype)
            self._generate(there, cache, generation)

    def _generate(self, inputs: Any, cache: DynamicCache, generation: Generation) -> None:
        def enough(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            """Whether each row ends: all or none."""
            is_enough = any(stop.is_set() for stop in generation.stops)
            return torch.full((len(ids),), is_enough, device=ids.device)

        self.network.generate(
            **inputs,
            **{CACHE_ARGUMENT: cache},
            **generation.settings.arguments,
            max_new_tokens=generation.limit,
            streamer=generation,
            stopping_criteria=[enough] if generation.stops else None,
        )

    def room_for_batch(self, rows: int, padded: int, limit: int) -> Room:
        """Return room for the longest answers that are allowed or, if it is not free, for short."""
        shape, size = shape_of(self.network.config), self.network.dtype.itemsize
        question = max(padded - shape.image_tokens, 0)
        work = Work(prompt_tokens=question, new_tokens=limit, batch=rows)
        needed = rows * (padded + limit) * kv_bytes_per_token(shape, size)
        needed += activation_bytes(shape, self.quantization, work, size)
        # Blocks that are full are made anew, which takes time, and memory for both.
        free = free_bytes(self.network.device)
        is_free = free is None or UNUSED * needed <= free
        return Room(padded + (limit if is_free else min(limit, SHORT_ANSWER)), padded + limit)


def several(images: Any) -> list[Any] | None:
    """Return what was given as a list, or None where it is one picture or none at all.

    Several are a list, a generator, a column of pandas, an array of pictures. Raises PromptError.
    """
    kind = type(images).__name__
    if isinstance(images, set | frozenset):
        raise PromptError(f"The pictures are a {kind}, which has no order: give sorted(images).")
    if kind == "DataFrame":
        raise PromptError('The pictures are a whole table: give one column of it, table["image"].')
    if isinstance(images, _SINGLE) or hasattr(images, "read") or kind == "Tensor":
        return None
    if kind == "ndarray":
        is_one = images.ndim < 3 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))
        if images.dtype.kind not in "buif":  # paths, or pictures as objects
            is_one = images.ndim == 0
        return None if is_one else list(images)
    return list(images) if isinstance(images, Iterable) else None


def one_or_several(image: Any) -> list[Any]:
    """Return a picture, or several, as a list. Raises ImageError for an empty one."""
    images = several(image)
    if images == []:
        raise ImageError(
            "There is no picture in what was given: give a picture, several of them, or None."
        )
    return [image] if images is None else images
