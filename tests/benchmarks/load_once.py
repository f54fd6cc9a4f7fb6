"""One load in a fresh process, which stops at marks so that its memory can be read.

    python tests/benchmarks/load_once.py '{"loader": "llava_nb", "folder": "/tmp/model"}'

Started by `process_memory.py`, which explains the measuring. At each mark it prints a line of JSON
and waits for a line. "imports" comes after everything that any of the loaders imports, so that
what follows is the load's own; "cuda", on a GPU, after CUDA has started, which takes RAM as well.

It loads on the CPU, unless the request says "on_gpu". "check" is load()'s; with "answer_tokens" it
asks about a picture in the end.

Loaders: "llava_nb" is `load(folder)`. "from_pretrained" is transformers' own with the same
quantisation; it makes no processor. "whole" reads all `.bin` files as torch does if not told to map
them, and makes no model: what a limit must stop.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Libraries print as they please; the lines of JSON go out by a way of their own.
_channel = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def mark(name: str, **facts: Any) -> None:
    """Say that a mark is reached, and wait until it has been read."""
    print(json.dumps({"mark": name, **facts}), file=_channel, flush=True)
    sys.stdin.readline()


def import_everything() -> None:
    """Import all that the loaders import, themselves or on first use."""
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import sentencepiece  # noqa: F401
    import torch  # noqa: F401
    import transformers.integrations.bitsandbytes
    import transformers.models.clip.modeling_clip
    import transformers.models.llama.modeling_llama
    import transformers.models.llava.modeling_llava
    import transformers.quantizers.quantizer_bnb_4bit  # noqa: F401

    import llava_nb.loading  # noqa: F401


def load_llava_nb(folder: Path, request: dict[str, Any]) -> Any:
    from llava_nb import load

    return load(folder, check=request.get("check", True))


def load_from_pretrained(folder: Path, request: dict[str, Any]) -> Any:
    from transformers import LlavaForConditionalGeneration

    from llava_nb.loading import device_and_dtype
    from llava_nb.quantise import settings

    device, dtype = device_and_dtype()
    return LlavaForConditionalGeneration.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        quantization_config=settings("4bit", dtype),
    )


def read_whole(folder: Path, request: dict[str, Any]) -> Any:
    import torch

    files = sorted(folder.glob("*.bin"))
    return [torch.load(file, weights_only=True, mmap=False) for file in files]


LOADERS = {
    "llava_nb": load_llava_nb,
    "from_pretrained": load_from_pretrained,
    "whole": read_whole,
}


def model_bytes(network: Any) -> int:
    """Bytes of a network: parameters, buffers and quantisation state, each storage once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(network)
    }
    return sum(storages.values())


def _tensors(network: Any) -> Iterator[Any]:
    import torch

    yield from network.buffers()
    for parameter in network.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            inside = vars(part).values() if part is not None else ()
            yield from (each for each in inside if isinstance(each, torch.Tensor))


def start_cuda() -> tuple[Any, int]:
    """Start CUDA on the GPU that load() will take; return it and the VRAM that was free before.

    Without a GPU it is (None, 0).
    """
    import torch

    from llava_nb import check_gpu
    from llava_nb.loading import device_and_dtype

    device, _ = device_and_dtype()
    if device == "cpu":
        return None, 0
    index = torch.device(device).index
    gpus = {gpu.index: gpu.free_bytes for gpu in check_gpu().gpus}  # leaves CUDA alone
    torch.zeros(1, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    return device, gpus.get(index) or 0


def vram(device: Any, free_before: int, when: str) -> dict[str, int]:
    """Return the most VRAM that was used in this step, in bytes; nothing on a CPU.

    "used" counts what torch does not, such as CUDA's context: by how much less is free than
    before, and what torch has given back since its peak.
    """
    if device is None:
        return {}
    import torch

    reserved = torch.cuda.max_memory_reserved(device)
    found = {
        f"vram_allocated_{when}": torch.cuda.max_memory_allocated(device),
        f"vram_reserved_{when}": reserved,
    }
    if free_before:  # nvidia-smi may not be there
        free, _ = torch.cuda.mem_get_info(device)
        given_back = reserved - torch.cuda.memory_reserved(device)
        found[f"vram_used_{when}"] = free_before - free + given_back
    return found


def about(device: Any) -> dict[str, Any]:
    """Return what the load ran on."""
    import torch

    name = torch.cuda.get_device_name(device) if device else "CPU"
    return {"device": name, "threads": torch.get_num_threads()}


def ask(llava: Any, tokens: int) -> dict[str, Any]:
    """Ask about a picture, for an answer of at most `tokens`."""
    from llava_nb.pictures import example_picture

    answer = llava.ask(example_picture(), "Describe this picture.", max_new_tokens=tokens)
    return {"answer_tokens": answer.tokens, "answer_seconds": answer.seconds}


def main() -> None:
    """Load as the request says, with a mark after each step."""
    request = json.loads(sys.argv[1])
    if not request.get("on_gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    mark("start")
    import_everything()
    mark("imports")
    device, free = start_cuda()
    mark("cuda", **about(device))
    began = time.perf_counter(), time.process_time()
    loaded = LOADERS[request["loader"]](Path(request["folder"]), request)
    took = {
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
    }
    mark("loaded", **took, **vram(device, free, "loading"))
    if request["loader"] != "whole":
        network = loaded.model if request["loader"] == "llava_nb" else loaded
        mark("counted", model_bytes=model_bytes(network))
    if request.get("answer_tokens"):
        answer = ask(loaded, request["answer_tokens"])
        mark("answered", **answer, **vram(device, free, "answering"))  # ask() begins its peak anew
    mark("end")


if __name__ == "__main__":
    main()
