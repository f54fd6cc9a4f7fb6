"""One model with random weights in a fresh process: made, then asked, its memory read in between.

    python tests/benchmarks/vram_once.py '{"name": "7b", "shape": {...}, "quantization": "4bit",
                                           "tokens": [64, 1024], "on_gpu": true}'

Started by `gpu_vram.py`, in the way of `load_once.py`: it stops at marks, and RAM is read from
outside. "cuda" comes after CUDA has started, "made" when the model is there, "loaded" when what
making it took has been given back, then one mark for each answer about the same picture. What the
estimate says of each is told beside it.

The end token is forbidden until the answer is as long as asked for: the tokens are all made.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

from load_once import about, import_everything, mark, model_bytes, start_cuda, vram

QUESTION = "Describe this picture."


def estimate(llava: Any, question_tokens: int, new_tokens: int) -> dict[str, int]:
    """Return what `estimate_vram` says of one picture and such an answer, in bytes."""
    from llava_nb import estimate_vram
    from llava_nb.sizes import CONTEXT

    found = estimate_vram(llava, prompt_tokens=question_tokens, max_new_tokens=new_tokens)
    context = found.parts[CONTEXT]
    return {
        "weights": found.weights_bytes,
        "context": context,
        "in_use": found.total_bytes,
        "needed": found.needed_bytes,
    }


def question_tokens(llava: Any, picture: Any) -> int:
    """Return the tokens of the prompt without those of the picture."""
    from llava_nb.processor import encode

    prompt = llava.prompt_text(QUESTION)
    ids = encode(llava.processor, [picture], [prompt], llava.spelling)["input_ids"]
    return int((ids != llava.model.config.image_token_id).sum())


def answer(llava: Any, picture: Any, tokens: int) -> tuple[dict[str, Any], int | None]:
    """Ask for exactly so many tokens; return what it took, and the peak of torch's tensors.

    The peak is None on a CPU. Raises RuntimeError for fewer tokens.
    """
    from llava_nb.vram.track import peak_on

    llava.model.generation_config.min_new_tokens = tokens
    with peak_on(llava.device) as peak:
        given = llava.ask(picture, QUESTION, max_new_tokens=tokens)
    if given.tokens != tokens:
        raise RuntimeError(f"{given.tokens} tokens were made instead of {tokens}")
    took = {
        f"seconds_{tokens}": given.seconds,
        f"first_token_seconds_{tokens}": given.first_token_seconds,
    }
    return took, peak.highest


def give_back(device: Any) -> None:
    """Let go of what making the model took, and begin torch's peaks anew."""
    import torch

    gc.collect()
    if device is not None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def main() -> None:
    """Make the model that the request says and ask it, with a mark after each step."""
    request = json.loads(sys.argv[1])
    if not request["on_gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    mark("start")
    import_everything()
    from random_model import make_random

    from llava_nb import open_image
    from llava_nb.pictures import example_picture
    from llava_nb.sizes import Shape

    mark("imports")
    device, free = start_cuda()
    mark("cuda", **about(device))
    began = time.perf_counter()
    llava = make_random(request["name"], Shape(**request["shape"]), request["quantization"])
    seconds = time.perf_counter() - began
    mark("made", seconds_made=seconds, dtype=llava.dtype, **vram(device, free, "made"))
    give_back(device)
    held = vram(device, free, "loaded")
    mark("loaded", model_bytes=model_bytes(llava.model), **held)
    picture = open_image(example_picture())
    question = question_tokens(llava, picture)
    for tokens in request["tokens"]:
        took, peak = answer(llava, picture, tokens)
        found = vram(device, free, str(tokens))
        if found:  # ask() may begin torch's peak anew more than once
            found[f"vram_allocated_{tokens}"] = peak
        told = {f"estimate_{tokens}": estimate(llava, question, tokens)}
        mark(f"answered {tokens}", **took, **told, **found)
    mark("end", question_tokens=question)


if __name__ == "__main__":
    main()
