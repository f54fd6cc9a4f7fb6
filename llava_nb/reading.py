"""From a source to a network: the calls of `from_pretrained`, and what is checked after.

transformers only warns of weights that are missing and fills them with random numbers;
whatever is not exactly right ends here as an error. Both layouts are read tensor by
tensor from mapped files and quantised on the way, so that the memory needed is the
model's own and one tensor more.
"""

from __future__ import annotations

import json
from typing import Any

from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from . import original
from .checkpoints import Checkpoint, unreachable
from .errors import LlavaNbError, ModelError
from .family import network_class
from .layouts import Source, weight_paths
from .quantise import stored_quantization
from .vram.free import or_out_of_vram, smaller_steps


def read_network(source: Source, access: dict[str, Any], **arguments: Any) -> PreTrainedModel:
    """Return the network with its weights, fetching them if need be.

    `arguments` go to from_pretrained: dtype, device_map, quantization_config. Raises
    ModelError if any weight is missing, left over, of another shape or damaged.
    """
    checkpoint = source.places[0]
    where, more = checkpoint.source, access
    if source.is_original:
        where, more = None, {"state_dict": _original_weights(source, access)}
    try:
        network, report = or_out_of_vram(
            lambda: network_class(source.config).from_pretrained(
                where,
                config=source.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_loaded names them
                **more,
                **arguments,
            ),
            f"loading {checkpoint.name}",
            arguments["device_map"][""],
            lambda: smaller_steps(source.config, _bits(source, arguments)),
        )
    except LlavaNbError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"A weight file of {checkpoint.name} is damaged or cut short ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise ModelError(unreachable(checkpoint, error)) from error
    check_loaded(checkpoint, report)
    return network


def _bits(source: Source, arguments: dict[str, Any]) -> str | None:
    """Return how the weights are to be stored: as the files have them, or as `arguments` say."""
    chosen = arguments.get("quantization_config")
    if chosen is None:
        return stored_quantization(source.raw)
    return "4bit" if chosen.load_in_4bit else "8bit"


def _original_weights(source: Source, access: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a checkpoint in the original layout, unread, all accounted for."""
    paths = [weight_paths(source, place, access) for place in source.places]
    tower = paths[1] if len(paths) > 1 else []
    weights, differences = original.open_checkpoint(source.raw, source.config, paths[0], tower)
    check_loaded(source.places[0], differences)
    return weights


def check_loaded(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    """Raise ModelError if any weight was missing, left over or of another shape.

    transformers only warns, and fills what is missing with random numbers.
    """
    found = {
        kind: sorted(str(key) for key in report.get(kind) or ())
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(found.values()):
        listed = "; ".join(
            f"{len(keys)} {kind.removesuffix('_keys')} ({', '.join(keys[:3])})"
            for kind, keys in found.items()
            if keys
        )
        raise ModelError(
            f"The weights of {checkpoint.name} do not match its config: {listed}. The model would "
            "answer at random. Fetch the files again, or check that config and weights belong "
            "together."
        )


# Special tokens that end an answer wherever a tokenizer has them, whatever else is said.
CHAT_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
)


def ends_of(old: GenerationConfig, source: Source, tokenizer: Any) -> GenerationConfig:
    """Return the settings for answers: the tokens that end one, and no others of the checkpoint.

    Some carry Vicuna's temperature and top_p, which greedy decoding complains about; some
    have no padding token, of which every answer would warn.
    """
    ends = end_tokens(source, tokenizer)
    return GenerationConfig(
        bos_token_id=old.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=ends[0] if old.pad_token_id is None and ends else old.pad_token_id,
    )


def end_tokens(source: Source, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer, by config.json, generation_config.json or tokenizer.

    What one of them leaves out another has: copies without generation_config.json, templates
    that close a turn with another token than the language model's own. The files are looked at, not
    transformers' objects: those fill up what a file leaves out, Llama's class with token 2, which
    is an ordinary word in Llama 3. A file written from such an object says 2 as well, so that
    does not count where the tokenizer reads a word there and another end is known.
    """
    try:
        generation = json.loads((source.folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        generation = {}
    text = source.raw.get("text_config")
    said = [each for each in (generation, source.raw, text) if isinstance(each, dict)]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    closing = [
        index
        for index, token in zip(
            tokenizer.convert_tokens_to_ids(list(CHAT_ENDS)), CHAT_ENDS, strict=True
        )
        if index in special and tokenizer.convert_ids_to_tokens(index) == token  # else it is <unk>
    ]
    ends = [*_numbers(tokenizer.eos_token_id), *closing]
    default = type(source.config.text_config)().eos_token_id
    for value in (each.get("eos_token_id") for each in said):
        ends += [each for each in _numbers(value) if each != default or each in special or not ends]
    return list(dict.fromkeys(ends))


def _numbers(value: Any) -> list[int]:
    """Return token ids, given as one number, as a list of numbers, or not at all."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [each for each in listed if isinstance(each, int) and not isinstance(each, bool)]
