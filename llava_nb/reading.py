"""From a source to a network: the calls of `from_pretrained`, and what is checked after.

transformers only warns of weights that are missing and fills them with random numbers;
whatever is not exactly right ends here as an error. Both layouts are read tensor by
tensor from mapped files and quantised on the way, so that the memory needed is the
model's own and one tensor more.
"""

from __future__ import annotations

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
    _forget_sampling(network)
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


def _forget_sampling(network: PreTrainedModel) -> None:
    """Keep only the token ids of the checkpoint's generation settings.

    Some carry Vicuna's temperature and top_p, which greedy decoding complains about; some
    have no padding token, of which every answer would warn.
    """
    old = network.generation_config
    ends = old.eos_token_id if isinstance(old.eos_token_id, list) else [old.eos_token_id]
    network.generation_config = GenerationConfig(
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
        pad_token_id=ends[0] if old.pad_token_id is None else old.pad_token_id,
    )
