"""Train the embedded model from nothing: `python -m llava_lessons.tiny.train OUT`.

Seven stages, each with a progress bar: the vision tower learns to see ("tower",
`tower.py`), then "speak", "align", "tune", "polish", "spare" and "decline" (`language.py`). The
model is written as float16 safetensors with its tokenizer and processor, in the layout that
transformers reads. The same seed on the same machine gives the same model.

"decline" takes photographs from scikit-image and scikit-learn and fonts from matplotlib
(`pip install "llava_nb[train]"`); without them it goes on with what it draws itself.
`--from-model FOLDER` goes on from a model, with those stages alone whose steps are given. How the
shipped model was made by this command, and what came out, says the card in `weights/README.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor

from llava_nb import load

from .build import build_model, build_processor, build_tokenizer
from .language import STAGES as language_stages
from .language import train_language
from .optimise import full_precision, mixed_precision
from .packing import sample_texts
from .tower import train_tower

STAGES = ("tower", *language_stages)


@dataclass(frozen=True)
class Recipe:
    """Steps of each stage, and how many pictures a step sees."""

    tower: int = 3000
    speak: int = 300
    align: int = 200
    tune: int = 2000
    polish: int = 800
    spare: int = 500
    decline: int = 1800
    tower_batch: int = 32
    language_batch: int = 16
    seed: int = 0
    bfloat16: bool = False


def train(
    recipe: Recipe,
    *,
    tower: Path | None = None,
    start: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    keep: Path | None = None,
    device: str = "cpu",
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return a trained model and its processor.

    `tower` is a folder with what the stage of that name made, to start from, and `start` one with
    a whole model; `report` gets a line at the end of each stage; `keep` is a folder to save the
    tower in. The model comes back on the CPU, wherever it was trained.
    """
    torch.manual_seed(recipe.seed)
    if start is None:
        processor = build_processor(build_tokenizer(sample_texts()))
        model = build_model(processor.tokenizer)
    else:
        llava = load(start, quantization=None)
        processor, model = llava.processor, llava.model
    if tower is not None:
        trained = CLIPVisionModel.from_pretrained(tower)
        model.model.vision_tower.load_state_dict(trained.state_dict())
    model.to(device)
    if recipe.bfloat16:
        model.set_attn_implementation("eager")  # the quicker one in bfloat16 on a CPU
    for stage in STAGES:
        if getattr(recipe, stage) and not (stage == "tower" and tower is not None):
            _stage(stage, recipe, model, processor, report)
        if stage == "tower" and keep is not None:
            model.model.vision_tower.save_pretrained(keep / stage)
    model.set_attn_implementation("sdpa")
    return model.to("cpu").eval().requires_grad_(False), processor


def _stage(stage: str, recipe: Recipe, model, processor, report: Callable[[str], None]) -> None:
    """Run one stage under a progress bar that shows a running mean of the loss."""
    steps, started, mean = getattr(recipe, stage), time.perf_counter(), None
    batch_size = recipe.tower_batch if stage == "tower" else recipe.language_batch
    common = {"steps": steps, "batch_size": batch_size, "seed": recipe.seed}
    common["precision"] = mixed_precision if recipe.bfloat16 else full_precision
    with tqdm(total=steps, desc=stage, mininterval=5) as bar:

        def progress(step: int, loss: float, accuracies: dict | None = None) -> None:
            nonlocal mean
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            shown = {"loss": f"{mean:.3f}"}
            if accuracies:
                shown["shape"] = f"{accuracies['shape']:.0%}"
            bar.set_postfix(shown, refresh=False)
            bar.update()

        if stage == "tower":
            train_tower(model.model.vision_tower, progress=progress, **common)
        else:
            train_language(model, processor.tokenizer, stage, progress=progress, **common)
    seconds = time.perf_counter() - started
    report(f"{stage}: {steps} steps in {seconds:.0f} s, loss {mean:.3f}")


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the model in float16 and everything needed to use it."""
    model.half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
    _name_as_on_the_hub(folder / "model.safetensors")


def _name_as_on_the_hub(path: Path) -> None:
    """Rename the tower's weights to what the published LLaVA-1.5 files say.

    Newer transformers leave out the level "vision_model" when they save, and 5.0 cannot
    read that; the published names are read by every version.
    """
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = {
        name if name.startswith(new) else name.replace(old, new, 1): weight
        for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train, and save."""
    parser = argparse.ArgumentParser(prog="python -m llava_lessons.tiny.train", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to write the model to")
    parser.add_argument("--from-tower", type=Path, help="a folder with a trained tower")
    parser.add_argument("--from-model", type=Path, help="a folder with a model to go on from")
    parser.add_argument("--threads", type=int, help="CPU threads to use (default: all)")
    parser.add_argument("--device", default="cpu", help='"cpu" (the default) or "cuda"')
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="multiply matrices in bfloat16: half the time on a CPU or GPU made for it",
    )
    defaults = Recipe()
    names = (*STAGES, "tower_batch", "language_batch", "seed")
    for name in names:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, metavar="N", help=f"default: {getattr(defaults, name)}")
    options = parser.parse_args(arguments)
    given = {name: number for name in names if (number := getattr(options, name)) is not None}
    if options.from_model:
        given = dict.fromkeys(STAGES, 0) | given
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = Recipe(**given, bfloat16=options.bfloat16)
    options.out.mkdir(parents=True, exist_ok=True)
    model, processor = train(
        recipe,
        tower=options.from_tower,
        start=options.from_model,
        report=tqdm.write,
        keep=options.out,
        device=options.device,
    )
    save(model, processor, options.out)


if __name__ == "__main__":
    main()
