"""Runs the notebooks in several arithmetics: `python tests/notebooks/arithmetics.py [NAME ...]`.

Processors add up in different orders, so the last digits of a sum differ, and a count of answers
may with them. This runs every notebook (nbval) and the answers to its exercises as other
processors would, and on a model whose weights are disturbed a little, and prints a table: how many
tests passed and failed. Cells that show weights themselves (in notebook 03) have to differ on
disturbed ones. The Korean notebooks are left out, being the same code.

`--only WORD` takes the arithmetics whose name holds it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from run_all import NBVAL, OTHER_ARITHMETIC, test_environment  # noqa: E402  (needs the line above)

# The variables of each arithmetic, and by how much the weights are disturbed, relatively. What is
# stored is a float32, which keeps seven digits: arithmetic alone moves a sum by about 1e-6.
# "SSE4" is PyTorch's plainest code; MKL, which multiplies matrices, has a choice of its own.
ARITHMETICS: dict[str, tuple[dict[str, str], float]] = {
    "this machine's": ({}, 0),
    "AVX2": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, 0),
    "SSE4, two threads": (OTHER_ARITHMETIC, 0),
    "SSE4, MKL's plainest": (OTHER_ARITHMETIC | {"MKL_CBWR": "COMPATIBLE"}, 0),
    "disturbed by 1e-4": ({}, 1e-4),
}


def disturbed_package(folder: Path, share: float) -> Path:
    """A copy of llava_nb in `folder`, the weights of its model changed by `share` at random."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(ROOT / "llava_nb", folder / "llava_nb")
    file = folder / "llava_nb" / "tiny" / "weights" / "model.safetensors"
    random = torch.Generator().manual_seed(0)
    weights = {name: weight.float() for name, weight in load_file(file).items()}
    for weight in weights.values():
        weight *= 1 + share * torch.randn(weight.shape, generator=random)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def environment_of(arithmetic: str, folder: Path) -> dict[str, str]:
    """The variables to run in; `folder` takes caches, and a disturbed package if there is one."""
    variables, share = ARITHMETICS[arithmetic]
    environment = test_environment(folder, is_first=True) | {"CUDA_VISIBLE_DEVICES": ""}
    packages = disturbed_package(folder, share) if share else ROOT
    paths = [str(packages), str(ROOT / "notebooks"), environment["PYTHONPATH"]]
    return environment | variables | {"PYTHONPATH": os.pathsep.join(paths)}


def run_pytest(arguments: list[str], environment: dict[str, str]) -> str:
    """Run pytest and return its closing line; what it prints of a failure goes to stderr."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        print(ended.stdout, ended.stderr, file=sys.stderr, flush=True)
    return (ended.stdout.splitlines() or [f"pytest ended with {ended.returncode}"])[-1]


def main(arguments: list[str]) -> int:
    """Run everything, print the table as it grows, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", type=Path)
    parser.add_argument("--only", default="", help="arithmetics whose name holds this word")
    options = parser.parse_args(arguments)
    paths = options.names or sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = [each for each in ARITHMETICS if options.only in each]
    print("| " + " | ".join(["notebook", *chosen]) + " |")
    print("| --- |" + " ---: |" * len(chosen), flush=True)
    all_green = True
    with tempfile.TemporaryDirectory() as folder:
        environments = []
        for place, arithmetic in enumerate(chosen):
            (Path(folder) / str(place)).mkdir()
            environments.append(environment_of(arithmetic, Path(folder) / str(place)))
        for path in paths:
            cells = [run_pytest([*NBVAL, str(path)], environment) for environment in environments]
            all_green &= not any(re.search("failed|error|ended", cell) for cell in cells)
            print("| " + " | ".join([path.name, *cells]) + " |", flush=True)
    return int(not all_green)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
