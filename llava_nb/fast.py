"""Faster answers on a GPU: keys and values in place, and the model's steps recorded.

One token is little work for a GPU, and a hundred kernels a layer wait for Python to start
them. With keys and values in buffers that stay where they are (transformers'
`StaticCache`), `torch.compile` can fuse the kernels of a step and record them as a CUDA
graph, which starts them all at once.

Compiling takes a minute and may fail, or bring nothing, on some GPU or some version. So
`speed_up` tries it, measures both ways, and keeps the faster one; it says which and why.

Not covered: reading a prompt, whose length is never the same twice; batches.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import StaticCache

from .generation import AnswerStream
from .inputs import context_of, request_for
from .prefix_cache import CACHE_ARGUMENT
from .settings import Settings

if TYPE_CHECKING:
    from transformers import DynamicCache

    from .llava import Llava

BUCKET = 1024  # tokens; another length of the buffers means compiling again
TRIAL_TOKENS = 48
WORTH_IT = 1.05  # times the stock speed; less would not pay for the warm-up


@dataclass(frozen=True)
class FastReport:
    """Whether fast decoding is on, and why; tokens a second and seconds as far as measured."""

    on: bool
    reason: str
    warm_up_seconds: float | None = None
    stock_tokens_per_second: float | None = None
    fast_tokens_per_second: float | None = None

    def __str__(self) -> str:
        state = "on" if self.on else "off"
        warm_up = self.warm_up_seconds
        after = f" The warm-up took {warm_up:.0f} s." if warm_up is not None else ""
        return f"Fast decoding is {state}: {self.reason}.{after}"


def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Compile one step of the language model, to be replayed as a CUDA graph."""
    compiled = torch.compile(step, mode="reduce-overhead", dynamic=False)

    def replay(*arguments: Any, **named: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the step before needs its outputs no more
        return compiled(*arguments, **named)

    return replay


class FastDecoder:
    """The buffers and the compiled step of one model."""

    def __init__(self, compiler: Callable[..., Any] = compile_step) -> None:
        self._compiler = compiler
        self._step: Callable[..., Any] | None = None
        self._buffers: StaticCache | None = None
        self._length = 0
        self.on_trial = False  # then a failure is raised, not made up for

    def begin(
        self, network: Any, ids: torch.Tensor, cache: DynamicCache, new_tokens: int
    ) -> StaticCache:
        """Read all of `ids`, (1, tokens), but the last, and return it all in the buffers.

        `cache` holds what has been read already. `new_tokens` more will fit.
        """
        rest = ids[:, cache.get_seq_length() : -1].to(network.device)
        if rest.shape[1]:
            network.model(input_ids=rest, use_cache=True, **{CACHE_ARGUMENT: cache})
        buffers = self._buffers_for(network, ids.shape[1] + new_tokens)
        positions = torch.arange(ids.shape[1] - 1, device=network.device)
        for buffer, layer in zip(buffers.layers, cache.layers, strict=True):
            # Before transformers 5.18 a layer is told the places; it counts them itself since.
            buffer.update(layer.keys, layer.values, {"cache_position": positions})
        return buffers

    def _buffers_for(self, network: Any, tokens: int) -> StaticCache:
        """Return empty buffers of enough length: the same ones, if they are long enough."""
        if self._buffers is None or tokens > self._length:
            self._length = -(-tokens // BUCKET) * BUCKET
            config = network.config.get_text_config(decoder=True)
            self._buffers = StaticCache(config=config, max_cache_len=self._length)
        else:
            self._buffers.reset()
        return self._buffers

    @contextlib.contextmanager
    def compiled(self, network: Any) -> Iterator[None]:
        """Have the language model take compiled steps for as long as this lasts."""
        language_model = network.model.language_model
        if self._step is None:
            self._step = self._compiler(language_model.forward)
        language_model.forward = self._step
        try:
            yield
        finally:
            del language_model.forward  # the class's own shows again


def layers_in_use(buffers: StaticCache, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return copies of the first `tokens`, which the next answer does not overwrite."""
    return [
        (layer.keys[:, :, :tokens].clone(), layer.values[:, :, :tokens].clone())
        for layer in buffers.layers
    ]


def speed_up(llava: Llava, compiler: Callable[..., Any] = compile_step) -> FastReport:
    """Switch fast decoding on if it works here and is faster; the report says so.

    Runs the model for a few dozen tokens each way, which takes a minute for compiling. The
    GPU is asked for: on a CPU nothing is tried, unless another `compiler` is given.
    """
    if llava.device.type != "cuda" and compiler is compile_step:
        return FastReport(False, "it needs a CUDA GPU, and this model is on the CPU")
    stock = _tokens_per_second(llava, runs=2)
    llava.decoder = FastDecoder(compiler)
    llava.decoder.on_trial = True
    started = time.perf_counter()
    try:
        _tokens_per_second(llava, runs=1)
        warm_up = time.perf_counter() - started
        fast = _tokens_per_second(llava, runs=2)
    except Exception as error:  # whatever a compiler may raise
        llava.decoder = None
        return FastReport(False, failure(error), None, stock)
    if fast < WORTH_IT * stock:
        llava.decoder = None
        reason = f"it is no faster here, {fast:.1f} tokens/s against {stock:.1f}"
        return FastReport(False, reason, warm_up, stock, fast)
    llava.decoder.on_trial = False
    reason = f"{fast:.1f} tokens/s instead of {stock:.1f}"
    return FastReport(True, reason, warm_up, stock, fast)


def failure(error: BaseException) -> str:
    """Return the line that says why compiling failed."""
    first = str(error).strip().partition("\n")[0]
    return f"compiling failed ({type(error).__name__}: {first})"


def _tokens_per_second(llava: Llava, runs: int) -> float:
    """The best of some runs that all make the same number of tokens, reading not counted."""
    from .running import run

    speeds = []
    for _ in range(runs):
        request = request_for(llava, None, [("Count to a hundred.", None)])
        settings = Settings(TRIAL_TOKENS, 0.0, None)
        context = context_of(llava._open())
        stream = AnswerStream(
            request, llava.processor.tokenizer, settings, context, time.perf_counter()
        )
        stream.arguments["min_new_tokens"] = stream.limit
        answer = run(llava, stream, None)
        seconds = answer.seconds - answer.first_token_seconds
        speeds.append((answer.tokens - 1) / max(seconds, 1e-9))
    return max(speeds)
