"""Runs the notebooks on models of other shapes: `python tests/notebooks/other_shapes.py`.

What is committed was run on the embedded model, whose pictures are 8 x 8 patches and whose answers
are a few words. A reader's model is another: LLaVA-1.5 on a T4, with 24 x 24 patches, many layers
and heads and long answers, or a small LLaVA-OneVision on a CPU, which pads nothing and has no class
token. Here small random models of those shapes take its place, wherever a notebook asks for the
model that is best for the machine; cells that ask for "tiny" by name keep it. Their answers mean
nothing, so outputs are not compared. What counts is that every cell, and every answer to an
exercise, runs: no exception, nothing on stderr.

Names of notebooks after the command choose among them, and `--only WORD` takes the models whose
name holds it. `--keep FOLDER` writes the executed notebooks there, for their figures to be looked
at.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("", "notebooks", "tests", "tests/unit", "tests/notebooks"):
    sys.path.insert(0, str(ROOT / folder))

import nbformat  # noqa: E402  (needs the lines above, as all that follow)
from answers import with_answers  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402
from run_all import test_environment  # noqa: E402

# Asks for the machine's model, or for the embedded one without a GPU: here always the former.
CHOICE = re.compile(r'"auto" if [\w.()]+ else "tiny"')
# What IPython runs before the first cell: load("auto") takes the folder, and leaves a note of it.
STARTUP = """
def _take_the_other_model():
    import dataclasses
    import os
    from pathlib import Path

    from llava_nb import gpu
    from llava_nb.loading import load as loading

    recommend = gpu.recommend

    def other(report):
        choice = dataclasses.replace(recommend(report), model=os.environ["OTHER_MODEL"])
        return dataclasses.replace(choice, quantization="4bit", reason="the test says so")

    def noted(report):
        Path(os.environ["OTHER_MODEL_NOTE"]).touch()
        return other(report)

    gpu.recommend, loading.recommend = other, noted


_take_the_other_model()
"""


def make_models(folder: Path, only: str) -> list[Path]:
    """Write the models whose name holds `only`; each in a folder of the name that it stands for."""
    from family_checkpoints import Sizes, make_member
    from transformers.utils import logging

    logging.disable_progress_bar()

    # More heads and layers than `show_heads` draws; 4,096 tokens, as Llama 2 has, and 32,768.
    text = {"num_hidden_layers": 9, "num_attention_heads": 16, "hidden_size": 128}
    llava = text | {"num_key_value_heads": 16, "max_position_embeddings": 4096}
    qwen = text | {"num_key_value_heads": 8, "max_position_embeddings": 32768}
    models = {
        "llava-1.5-13b": ("llava-1.5", Sizes(side=336, patch=14, text=llava)),
        # By this name load() shows it a picture in one view, as it does on every CPU.
        "llava-onevision-0.5b": ("llava-onevision", Sizes(side=384, patch=14, text=qwen)),
    }
    made = []
    for name, (member, sizes) in models.items():
        if only in name:
            made.append(folder / name)
            make_member(member, made[-1], sizes=sizes, readable=True)
    return made


@dataclass(frozen=True)
class Run:
    """A notebook on a model: the complaints, the seconds, and its slowest cell."""

    notebook: str
    model: str
    complaints: list[str]
    seconds: float
    slowest: str

    def __str__(self) -> str:
        took = f"{self.seconds:.0f} s, the slowest cell {self.slowest}"
        lines = [f"{self.notebook} on {self.model}: {took}", *self.complaints]
        return "\n  ".join(lines)


def prepared(path: Path) -> Any:
    """Return the notebook with the answers to its exercises, asking for the machine's model."""
    notebook = with_answers(nbformat.read(path, as_version=4))
    for cell in notebook.cells:
        if cell["cell_type"] == "code":
            skipped = "NBVAL_SKIP" in cell["source"]  # as nbval does: other programs are at work
            cell["source"] = "" if skipped else CHOICE.sub('"auto"', cell["source"])
    return notebook


def loads_by_itself(notebook: Any) -> bool:
    """Whether it takes the machine's model anywhere; some notebooks are about the embedded one."""
    code = "\n".join(cell["source"] for cell in notebook.cells if cell["cell_type"] == "code")
    return bool(re.search(r'"auto"|load\(\)', code))


def run(path: Path, model: Path, keep: Path | None) -> Run:
    """Execute one notebook on one model."""
    notebook, started = prepared(path), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "other_model.py").write_text(STARTUP)
        environment = test_environment(Path(folder), is_first=True)
        paths = [str(ROOT), str(ROOT / "notebooks"), environment["PYTHONPATH"]]
        note, place = Path(folder) / "note", Path(folder) / "notebooks"
        place.mkdir()
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"OTHER_MODEL": str(model), "OTHER_MODEL_NOTE": str(note)}
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            allow_errors=True,  # every cell that fails is told, not the first alone
            resources={"metadata": {"path": str(place)}},
        )
        complaints = []
        try:
            client.execute(env=os.environ | environment, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            complaints.append(str(error))
        complaints += complaints_about(notebook)
        if not note.exists():
            complaints.append('it never took the model: does it ask for load("auto")?')
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, keep / f"{path.stem}.{model.name}.ipynb")
    seconds = time.perf_counter() - started
    return Run(path.stem, model.name, complaints, seconds, slowest_cell(notebook))


def complaints_about(notebook: Any) -> list[str]:
    """Return what went wrong in an executed notebook, cell by cell, counted from 0."""
    found = []
    for place, cell in enumerate(notebook.cells):
        if cell["cell_type"] == "code":
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    found.append(f"[{place}] {output['ename']}: {output['evalue']}")
                if output.get("name") == "stderr":
                    found.append(f"[{place}] stderr: {output['text'].strip()[-300:]}")
    return found


def slowest_cell(notebook: Any) -> str:
    """Return the place and the seconds of the cell that took longest."""
    took = {}
    for place, cell in enumerate(notebook.cells):
        times = cell["metadata"].get("execution", {})
        ends = [times.get(f"iopub.status.{state}") for state in ("busy", "idle")]
        if all(ends):
            begun, ended = (datetime.fromisoformat(each.replace("Z", "+00:00")) for each in ends)
            took[place] = (ended - begun).total_seconds()
    if not took:
        return "nothing was run"
    place = max(took, key=took.get)
    return f"[{place}] {took[place]:.1f} s"


def main(arguments: list[str]) -> int:
    """Run all, print each as it ends, and return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", type=Path)
    parser.add_argument("--only", default="", help="models whose name holds this word")
    parser.add_argument("--keep", type=Path, help="a folder for the executed notebooks")
    options = parser.parse_args(arguments)
    paths = options.names or sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = [path for path in paths if loads_by_itself(prepared(path))]
    for path in sorted(set(paths) - set(chosen)):
        print(f"{path.stem} is about the embedded model alone")
    failed, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder), options.only)
        pairs = [(path, model) for model in models for path in chosen]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
            keep = options.keep and options.keep.absolute()
            runs = [pool.submit(run, path, model, keep) for path, model in pairs]
            for done in as_completed(runs):
                print(done.result(), flush=True)
                failed += bool(done.result().complaints)
    print(f"{len(pairs)} runs, {failed} failed, {time.perf_counter() - started:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
