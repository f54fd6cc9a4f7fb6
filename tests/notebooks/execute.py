"""Executes notebooks in place, as committed: `python tests/notebooks/execute.py [NAME ...]`.

Runs every cell from top to bottom in a fresh kernel, without a network and without a GPU, so that
the embedded model answers; then drops what differs from run to run and proves nothing (timestamps,
widget state, the kernel's version). Without names it takes every notebook.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "offline"))
from network_guard import offline_environment  # noqa: E402  (needs the line above)

METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> None:
    """Run one notebook and write it back."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            cell["outputs"] = join_streams(cell["outputs"])
            if "NBVAL_SKIP" in cell["source"]:  # other programs' logs, with times and numbers
                cell["outputs"] = [each for each in cell["outputs"] if each.get("name") != "stderr"]
    notebook["metadata"] = nbformat.from_dict(METADATA)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def join_streams(outputs: list[dict]) -> list[dict]:
    """Join pieces that were printed one after another, as a person sees them."""
    joined: list[dict] = []
    for output in outputs:
        if joined and output.get("name") and output.get("name") == joined[-1].get("name"):
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def main(names: list[str]) -> None:
    """Execute the notebooks named, or all."""
    paths = [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("**/*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(offline_environment(Path(folder)), CUDA_VISIBLE_DEVICES="")
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        for path in paths:
            print(f"executing {path.name}", flush=True)
            execute(path)


if __name__ == "__main__":
    main(sys.argv[1:])
