"""The model at work: the one place where `generate` is called.

A picture is always read apart from the words that follow it. So a question gives the same
numbers, to the last bit, whether the model has just read the picture or remembers it; read
in one go they would differ in the last digits, and now and then a word with them.

Covered: reading, generating, one at a time, the peak of memory, what happens when it runs
out. Not covered: what is remembered (`prefix_cache.py`), tokens as they come
(`generation.py`, `rows.py`), what to try next (`recovery.py`).

No variable here holds the model itself: the frames of an error outlive it in a notebook.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .answer import Answer
from .fast import layers_in_use
from .generation import AnswerStream
from .inputs import Request
from .preallocated import KeysAndValues, Room
from .prefix_cache import CACHE_ARGUMENT, Prefix, take_layers
from .settings import Stop, StopWhen
from .sizes import ANSWER_TOKENS
from .vram.free import is_out_of_memory, or_out_of_vram, smaller_steps
from .vram.track import Peak, peak_on

if TYPE_CHECKING:
    from transformers import DynamicCache

    from .fast import FastDecoder
    from .llava import Llava


def run(llava: Llava, stream: AnswerStream, stop: Stop | None) -> Answer:
    """Generate one answer until the end, the limit or the stop, and count what it took.

    Raises OutOfVramError.
    """
    ends = llava._open().generation_config.eos_token_id
    peak = guarded(llava, lambda: _generate(llava, stream, stop), stream.limit)
    return stream.answer(peak.highest, ends)


def guarded(llava: Llava, work: Callable[[], None], answer_tokens: int) -> Peak:
    """Do the work, no other with this model meanwhile, and return the peak.

    An out-of-memory becomes OutOfVramError; what the model remembered is given up for it.
    """

    def forget_and_advise() -> list[str]:
        llava.prefixes.clear()
        return smaller_steps(llava._open().config, llava.quantization, answer_tokens)

    with llava._busy, peak_on(llava.device) as peak:
        or_out_of_vram(work, "answering", llava.device, forget_and_advise)
    return peak


def call_generate(
    llava: Llava,
    inputs: dict[str, Any],
    arguments: dict[str, Any],
    streamer: Any,
    stop: Stop | None,
) -> None:
    """Call the model's `generate`; the tokens go to `streamer`."""
    llava._open().generate(
        **_on_device(inputs, llava.device),
        **arguments,
        streamer=streamer,
        stopping_criteria=[StopWhen(stop)] if stop is not None else None,
    )


def _generate(llava: Llava, stream: AnswerStream, stop: Stop | None) -> None:
    request = stream.request
    llava.prefixes.make_room(stream.prompt_tokens + stream.limit, llava.device)
    # Not inference_mode: compiled steps write into buffers that must outlive it.
    with torch.no_grad():
        cache, stream.reused = _read_picture(llava, request, _room(llava, stream))
        try:
            layers = _decode(llava, stream, cache, stop)
        except Exception as error:
            if not _can_do_without(llava.decoder, stream) or is_out_of_memory(error):
                raise
            _switch_off(llava, error)
            layers = _decode(llava, stream, cache, stop)
    if request.whole:
        said = torch.tensor(stream.new_ids[:-1], dtype=torch.long)  # the last has not been read
        _remember(llava, request, torch.cat([request.ids[0], said]), layers)
    elif request.picture is not None:
        _remember(llava, request, request.ids[0, : request.picture_end], layers)


def _decode(
    llava: Llava, stream: AnswerStream, cache: DynamicCache, stop: Stop | None
) -> Callable[[int], list[KeysAndValues]]:
    """Make the tokens; return what gives the keys and values of the first so many."""
    ids = stream.request.ids
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if llava.decoder is None:
        call_generate(llava, inputs, {**stream.arguments, CACHE_ARGUMENT: cache}, stream, stop)
        return lambda tokens: take_layers(cache, tokens)
    buffers = llava.decoder.begin(llava._open(), ids, cache, stream.limit)
    arguments = {**stream.arguments, CACHE_ARGUMENT: buffers, "disable_compile": True}
    with llava.decoder.compiled(llava._open()):
        call_generate(llava, inputs, arguments, stream, stop)
    return lambda tokens: layers_in_use(buffers, tokens)


def _can_do_without(decoder: FastDecoder | None, stream: AnswerStream) -> bool:
    """Whether the answer can begin again with steps that are not compiled."""
    return decoder is not None and not decoder.on_trial and not stream.new_ids


def _switch_off(llava: Llava, error: BaseException) -> None:
    """Go on without compiled steps, and say why."""
    from .fast import FastReport, failure

    llava.decoder, llava.fast = None, FastReport(False, failure(error))
    warnings.warn(str(llava.fast), stacklevel=2)


def _room(llava: Llava, stream: AnswerStream) -> Room:
    """Return the room for the prompt and an answer as long as the estimate goes by, or shorter.

    Compiled steps have buffers of their own, into which what was read is copied.
    """
    answer = 0 if llava.decoder is not None else min(stream.limit, ANSWER_TOKENS)
    return Room(stream.prompt_tokens + answer, stream.prompt_tokens + stream.limit)


def _read_picture(llava: Llava, request: Request, room: Room) -> tuple[DynamicCache, int]:
    """Return a cache with the picture in it, and how many tokens it held already."""
    ids, end = request.ids[0], request.picture_end
    cache, reused = llava.prefixes.start(ids, request.picture, end, room, whole=request.whole)
    if request.picture is None or reused:
        return cache, reused
    inputs = {"input_ids": request.ids[:, :end], **request.see()}
    # The inner model: the head would only give next words that nobody asks for.
    inputs = _on_device({**inputs, CACHE_ARGUMENT: cache}, llava.device)
    llava._open().model(**inputs, use_cache=True)
    return cache, 0


def _remember(
    llava: Llava,
    request: Request,
    ids: torch.Tensor,
    layers: Callable[[int], list[KeysAndValues]],
) -> None:
    prefix = Prefix(ids, request.picture, request.picture_end, layers(len(ids)))
    llava.prefixes.keep(prefix, llava.device)


def _on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
