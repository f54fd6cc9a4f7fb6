"""`load()`: from a name to a model that is ready to be asked.

Chooses, compares with the machine, quantises while reading, verifies, and keeps one model at a
time. transformers only warns of weights that are missing and fills them with random numbers;
whatever is not exactly right ends here as an error. Both layouts are read tensor by tensor from
mapped files and quantised on the way, so that the memory needed is the model's own and one tensor
more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from ..errors import LlavaNbError, ModelError, format_gib, plain
from ..gpu import GpuReport, check_gpu, recommend
from ..inference.llava import Llava
from ..vram.report import large_blocks_apart, or_out_of_vram, smaller_steps
from .find import Checkpoint, is_auto, locate, read_config, unreachable
from .fit import check_fits, check_quantization, needs, seconds_on_cpu
from .source import Source, find_source, network_class, weight_paths, with_stock_names
from .weights import (
    check_modules,
    hush_bitsandbytes,
    keep_scales,
    no_bars,
    open_weights,
    repair_stored,
    settings,
)

# Special tokens that end an answer wherever a tokenizer has them, whatever else is said.
CHAT_ENDS = "<|im_end|> <|eot_id|> <|eom_id|> <|end|> <end_of_turn> <|end_of_text|>".split()
_loaded: dict[tuple, Llava] = {}  # one, and those that were to stay beside it


def load(
    model: str | Path = "auto",
    *,
    quantization: str | None = "4bit",
    token: str | None = None,
    cache_dir: str | Path | None = None,
    check: bool = True,
    alone: bool = True,
) -> Llava:
    """Load a LLaVA and return it ready to be asked.

    `model` is a short name ("llava-1.5-13b", "llava-1.5-7b", "tiny"), a hub id, a folder, or
    "auto": the largest LLaVA-1.5 that fits the GPU; without one a small LLaVA-OneVision,
    unquantised, or "tiny" where that cannot be had. `quantization` is "4bit", "8bit" or None
    (float16 or bfloat16 on a GPU, float32 on a CPU). `token` is for private hub models;
    public ones are fetched without any. `check` compares what the model needs with free disk, RAM
    and VRAM before anything is fetched.

    The same call again returns the same object; another model releases the one before, unless
    `alone` is False: then both stay, to be compared. Raises ModelError with the repair in its
    message, DoesNotFitError (a ModelError) if something is short.
    """
    check_quantization(quantization)
    access = _access(token, cache_dir)
    if not isinstance(check, int):
        raise ModelError(f"check is a {type(check).__name__}; it is True or False.")
    # "auto" goes by free memory, so it is located when the model before has released its own.
    checkpoint = None
    if not is_auto(model):
        checkpoint = locate(model)
        _check_bitsandbytes(quantization)
    stamp = checkpoint.stamp if checkpoint else ("auto",)
    key = (*stamp, quantization, access["cache_dir"])
    if key not in _loaded or _loaded[key].closed:
        if alone:
            release()
        report = check_gpu(ask_torch=True)  # one look at the machine serves all that follows
        if checkpoint is None:
            choice = recommend(report)
            checkpoint = replace(locate(choice.model), reason=choice.reason)
            if quantization == "4bit":  # the default, which a CPU is slower with
                quantization = choice.quantization
            _check_bitsandbytes(quantization)
        with quiet(checkpoint), large_blocks_apart():
            _loaded[key] = _load(checkpoint, quantization, access, report, check)
    return _loaded[key]


def _check_bitsandbytes(quantization: str | None) -> None:
    if quantization and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Loading in {quantization} needs bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes. Or load without it: load(..., quantization=None)."
        )


def _access(token: object, cache_dir: object) -> dict[str, Any]:
    """Return {"token", "cache_dir"} as hub functions take them, or raise ModelError."""
    # The token's text stands in no message.
    if not (token is None or token is False or isinstance(token, str)):
        raise ModelError(
            f"token is a {type(token).__name__}; it is the text of a token, "
            'load(..., token="hf_..."), or None, as public models need none.'
        )
    if token and not re.fullmatch(r"[!-~]+", token.strip()):
        raise ModelError(
            "The token holds spaces or letters that no token of the hub has. Copy it anew from "
            "https://huggingface.co/settings/tokens."
        )
    if cache_dir is not None:
        if not isinstance(cache_dir, (str, os.PathLike)) or isinstance(cache_dir, bytes):
            kind = type(cache_dir).__name__
            raise ModelError(f"cache_dir is a {kind}; it is the folder for downloads, or None.")
        try:
            folder = Path(cache_dir).expanduser()
            os.fsencode(folder)
            file = next((each for each in (folder, *folder.parents) if each.is_file()), None)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                f"cache_dir={plain(cache_dir)} is no folder ({plain(error)})."
            ) from error
        if file is not None:
            raise ModelError(f"cache_dir={plain(cache_dir)}: {file} is a file. Give a folder.")
        cache_dir = str(folder)
    # False is no token at all: None would be the one that somebody saved on this machine.
    return {"token": token.strip() if token else False, "cache_dir": cache_dir}


def release() -> None:
    """Close what is loaded, if anything, so that its memory is free."""
    while _loaded:
        _loaded.popitem()[1].close()


@contextlib.contextmanager
def quiet(checkpoint: Checkpoint) -> Iterator[None]:
    """Show progress bars for downloads only; a folder is read too fast to need one."""
    # transformers before 5.15 may hold a whole half-precision model on the GPU while it loads in
    # threads; this makes it load tensor by tensor.
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
    # Without it huggingface_hub shows no bar where stderr is a pipe or a file. tqdm looks at it
    # when it is imported, and would set its bars a line lower.
    import tqdm.auto  # noqa: F401

    os.environ.setdefault("TQDM_POSITION", "-1")
    hush_bitsandbytes()
    with no_bars() if checkpoint.is_folder else contextlib.nullcontext():
        yield


def device_and_dtype(report: GpuReport) -> tuple[str, torch.dtype]:
    """Return where the model goes and what it computes in: the freest GPU, or the CPU."""
    # One device by name, never "auto": a model that does not fit must say so, not spill.
    device = "cpu" if report.no_cuda_reason else f"cuda:{report.gpu.index}"
    return device, getattr(torch, report.compute_dtype if device != "cpu" else "float32")


def _load(
    checkpoint: Checkpoint,
    quantization: str | None,
    access: dict[str, Any],
    report: GpuReport,
    check: bool,
) -> Llava:
    raw = read_config(checkpoint, quantization, "load", **access)
    device, dtype = device_and_dtype(report)
    source = find_source(checkpoint, raw, access)
    stored = getattr(source.config, "quantization_config", None)
    if stored:
        source.config.quantization_config = repair_stored(stored, dtype)
    # Before any weight: what is wrong with these small files needs no download to be seen.
    processor = source.processor()
    style = source.style(processor)
    if check:
        how = {"quantization": quantization, "device": device, "cache_dir": access["cache_dir"]}
        needed = needs(source.config, source.files, **how, report=report)
        check_fits(checkpoint.name, needed, quantization=quantization)
    _announce(checkpoint, source, device)
    bits = None if stored else settings(quantization, dtype)
    how = {"dtype": dtype, "device_map": {"": device}, "quantization_config": bits}
    network = read_network(source, access, quantization, **how)
    check_modules(network, quantization)
    if quantization == "4bit":
        keep_scales(network)
    network.generation_config = ends_of(network.generation_config, source, processor.tokenizer)
    llava = Llava(
        network.eval().requires_grad_(False),
        processor,
        name=checkpoint.name,
        reason=checkpoint.reason,
        quantization=quantization,
        style=style,
        spelling=source.spelling,
        source=checkpoint.source,
    )
    if device == "cpu" and checkpoint.is_for_cpu:
        llava.views = "one"
    return llava


def _announce(checkpoint: Checkpoint, source: Source, device: str) -> None:
    """Say on stderr, as the progress bars do, what will be waited for."""
    fetched = sum(each.fetch_bytes for each in source.files)
    if fetched:
        said = f"Fetching {format_gib(fetched)} for {checkpoint.name}: {checkpoint.reason}."
        if checkpoint.licence:
            said += f" Its licence: {checkpoint.licence}."
        if device == "cpu":
            first, each = seconds_on_cpu(source.config)
            said += f" Here, on the CPU, a first word then takes about {first:.0f} s and each word "
            said += f"after it {each:.1f} s."
        sys.stderr.write(f"llava_nb: {said}\n")


def read_network(
    source: Source, access: dict[str, Any], quantization: str | None, **arguments: Any
) -> PreTrainedModel:
    """Return the network with its weights, fetching them if need be.

    `arguments` go to from_pretrained: dtype, device_map, quantization_config. Raises ModelError.
    """
    checkpoint = source.places[0]
    where, more = checkpoint.source, dict(access)
    if source.is_original:
        opened = [open_weights(weight_paths(source, place, access)) for place in source.places]
        weights, tower = (*opened, {})[:2]
        weights, differences = with_stock_names(source.raw, source.config, weights, tower)
        check_loaded(checkpoint, differences)
        where, more = None, {"state_dict": weights}
    # check_loaded names what is mismatched
    more |= {"config": source.config, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        network, found = or_out_of_vram(
            lambda: network_class(source.config).from_pretrained(where, **more, **arguments),
            f"loading {checkpoint.name}",
            arguments["device_map"][""],
            lambda: smaller_steps(source.config, quantization),
        )
    except LlavaNbError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"A weight file of {checkpoint.name} is damaged or cut short ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise ModelError(unreachable(checkpoint, error)) from error
    check_loaded(checkpoint, found)
    return network


def check_loaded(checkpoint: Checkpoint, found: dict[str, Any]) -> None:
    """Raise ModelError if any weight was missing, left over or of another shape.

    `found` is from_pretrained's loading info.
    """
    listed = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in found.get(f"{kind}_keys") or ())
        if keys:
            listed.append(f"{len(keys)} {kind} ({', '.join(keys[:3])})")
    if listed:
        raise ModelError(
            f"The weights of {checkpoint.name} do not match its config: {'; '.join(listed)}. The "
            "model would answer at random. Fetch the files again, or check that config and weights "
            "belong together."
        )


def ends_of(old: GenerationConfig, source: Source, tokenizer: Any) -> GenerationConfig:
    """Return the settings for answers: the tokens that end one, and no others of the checkpoint."""
    # Some carry Vicuna's temperature and top_p, which greedy decoding complains about; some have no
    # padding token, of which every answer would warn.
    ends = _end_tokens(source, tokenizer)
    return GenerationConfig(
        bos_token_id=old.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=ends[0] if old.pad_token_id is None and ends else old.pad_token_id,
    )


def _end_tokens(source: Source, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer, by the config files or the tokenizer."""
    # What one of them leaves out another has: copies without generation_config.json, templates that
    # close a turn with another token than the language model's own.
    try:
        generation = json.loads((source.folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        generation = {}
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    ends = _token_ids(tokenizer.eos_token_id)
    for token in CHAT_ENDS:
        index = tokenizer.convert_tokens_to_ids(token)  # that of <unk> for a token it does not have
        if index in special and tokenizer.convert_ids_to_tokens(index) == token:
            ends.append(index)
    # The files are looked at, not transformers' objects: those fill up what a file leaves out,
    # Llama's class with token 2, which is an ordinary word in Llama 3. A file written from such an
    # object says 2 as well, so that does not count where the tokenizer reads a word there and
    # another end is known.
    default = type(source.config.text_config)().eos_token_id
    for said in (generation, source.raw, source.raw.get("text_config")):
        for index in _token_ids(said.get("eos_token_id") if isinstance(said, dict) else None):
            if index != default or index in special or not ends:
                ends.append(index)
    return list(dict.fromkeys(ends))


def _token_ids(value: Any) -> list[int]:
    """Return token ids, given as one number, as a list of numbers, or not at all."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [each for each in listed if isinstance(each, int) and not isinstance(each, bool)]
