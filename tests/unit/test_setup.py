"""colab_setup.sh: what it installs, when it does not, and what it says when it cannot.

A stand-in for `python3` (fake_python.sh) writes down what it is asked. Real installs are what
`bash colab_setup.sh test` makes before it comes here; what they changed in the stand-in for Colab's
runtime is looked at below.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDED = {"bitsandbytes", "llava_nb"}
FAKE_PYTHON = Path(__file__).with_name("fake_python.sh").read_text()
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(10, 14)))


class Machine:
    """A folder with the script in it, and a PATH on which python3 is the fake above."""

    def __init__(self, folder: Path) -> None:
        self.root, self.tools = folder / "llava-nb", folder / "tools"
        self.root.mkdir()
        self.tools.mkdir()
        for name in ("colab_setup.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        for name in PYTHONS:
            self.tool(name, FAKE_PYTHON)
        self.tool("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.log = folder / "pip.log"

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("COLAB_")}
        path = f"{self.tools}{os.pathsep}{os.environ['PATH']}"
        environment = {**kept, "PATH": path, "FAKE_LOG": str(self.log), **variables}
        command = ["bash", str(self.root / "colab_setup.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def installs(self) -> list[str]:
        """The pip commands so far that really install; reading the log empties it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if "--dry-run" not in line]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# --- verbs --------------------------------------------------------------------------------------


def test_help_names_every_verb(machine):
    shown = machine.run("help").stdout
    script = (ROOT / "colab_setup.sh").read_text()
    verbs = re.findall(r"^        (\w+)(?: \|.*)?\)", script, re.MULTILINE)
    assert {"setup", "caption", "test", "lab"} < set(verbs)
    assert not [verb for verb in verbs if f"colab_setup.sh {verb}" not in shown]
    assert "colab_setup.sh test" in (ROOT / ".ci" / "run").read_text()


def test_a_slip_is_answered_with_what_there_is_and_caption_hands_on_its_words(machine):
    run = machine.run("captoin")
    assert run.returncode == 1
    assert "no verb 'captoin'" in run.stderr and "colab_setup.sh caption" in run.stderr
    assert "no extra 'gpu'; there are: test, lab" in machine.run("setup", "gpu").stderr
    run = machine.run("caption", "my cat.png", "What is it?")
    assert "python -m llava_nb caption my cat.png What is it?" in run.stdout


# --- a second run -------------------------------------------------------------------------------


def test_an_extra_is_added_once_and_changed_requirements_are_installed(machine):
    machine.run("setup", "test")
    assert f"{machine.root}[test]" in machine.installs()[-1]
    machine.run("setup", "test")
    run = machine.run("caption")
    assert "already set up" in run.stdout and not machine.installs()
    (machine.root / "pyproject.toml").write_text("changed")
    machine.run()
    assert "--editable" in machine.installs()[-1]


def test_what_failed_or_broke_is_made_again(machine):
    assert machine.run(FAKE_PIP_FAILS_ON="--editable").returncode == 1
    machine.installs()
    assert machine.run().returncode == 0
    assert "--editable" in machine.installs()[-1]
    (machine.root / ".venv" / "bin" / "python").unlink()
    assert "making" in machine.run("caption").stdout


# --- torch --------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build of torch")


def torch_installs(machine):
    return [line for line in machine.installs() if "torch==" in line]


@linux
@pytest.mark.parametrize(
    ("faults", "from_index", "said"),
    [({}, False, ""), ({"FAKE_TORCH_HAS_CUDA": "1"}, True, ""),
     ({"FAKE_TORCH_HAS_CUDA": "1", "FAKE_PIP_FAILS_ON": "--index-url"}, False, "several GB")],
)  # fmt: skip
def test_a_cpu_build_comes_from_pip_or_its_index_and_a_large_one_is_announced(
    machine, faults, from_index, said
):
    run = machine.run(**faults)
    install = torch_installs(machine)[-1]
    assert ("--index-url" in install) == ("/cpu " in install) == from_index
    assert run.returncode == 0 and said in run.stdout


@linux
def test_gpu_that_appears_later_gets_its_own_build(machine):
    machine.run()
    machine.installs()
    machine.tool("nvidia-smi", "#!/bin/sh\n")
    assert "starting afresh" in machine.run().stdout
    assert len(torch_installs(machine)) == 1
    machine.run()
    assert not machine.installs()


# --- what it says when it cannot ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [({"FAKE_VERSION_UNFIT": "1"}, "no Python 3.10 to 3.13 was found.*apt-get install"),
     ({"FAKE_NO_VENV": "1"}, "apt-get install python3-venv"),
     ({"COLAB_RELEASE_TAG": "any"}, "has no pip")],
)  # fmt: skip
def test_what_is_missing_is_named_with_the_way_to_get_it(machine, fault, said):
    if "COLAB_RELEASE_TAG" in fault:
        machine.tool("python3", "#!/bin/sh\nexit 1\n")
    run = machine.run(**fault)
    assert run.returncode == 1 and re.search(said, run.stderr, re.DOTALL)


def test_another_python_on_the_path_is_found(machine):
    machine.tool("python3", "#!/bin/sh\necho Python 3.9; exit 1\n")
    assert machine.run().returncode == 0


@pytest.mark.slow
def test_no_network_with_the_real_pip(machine, tmp_path):
    for name in PYTHONS:
        (machine.tools / name).unlink()
    (machine.tools / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    run = machine.run(**nowhere)
    assert run.returncode == 1
    assert "pip could not install torch" in run.stderr and "there is no network" in run.stderr


# --- Colab --------------------------------------------------------------------------------------


def packages(listing):
    return dict(line.split("==", 1) for line in listing.read_text().splitlines() if "==" in line)


def test_colab_set_up_changed_no_package():
    """By pip's report over the versions that Colab ships, and by what was there afterwards."""
    record = ROOT / ".venv-colab" / "set-up"  # written by tests/colab_stand_in.sh
    if not (record / "after.txt").exists():
        pytest.skip("made by: bash colab_setup.sh test")
    report = json.loads((record / "dry-run.json").read_text())
    names = {item["metadata"]["name"].replace("-", "_") for item in report["install"]}
    before, after = packages(record / "before.txt"), packages(record / "after.txt")
    assert len(before) > 40 and {name: after.get(name) for name in before} == before
    assert {name.replace("-", "_") for name in after.keys() - before.keys()} == names == ADDED


def test_too_old_runtime_is_named(machine):
    """The real check for what is missing, on a pyproject.toml that asks for too much."""
    project = '[project]\ndependencies = ["pytest>=9999"]\n'
    (machine.root / "pyproject.toml").write_text(project)
    machine.tool("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    run = machine.run(COLAB_RELEASE_TAG="any")
    version = importlib.metadata.version("pytest")
    assert run.returncode == 1
    assert f"pytest {version} (needed: >=9999)" in run.stderr
    assert "Runtime > Change runtime type" in run.stderr


# --- the project's files against each other -----------------------------------------------------


def test_conda_environment_has_every_requirement_in_the_same_range_and_says_what_needs_it():
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|lab) = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    wanted = dict(re.findall(r'^ +"([\w-]+)([^"]*)",.*# ', "".join(lists), re.MULTILINE))
    lines = (ROOT / "environment.yml").read_text().split("dependencies:\n")[1].splitlines()
    assert not [line for line in lines if "#" not in line and line.strip() != "- pip:"]
    conda = dict(re.findall(r"^  - ([\w-]+)([^\s#]*) +# \S", "\n".join(lines), re.MULTILINE))
    conda["torch"] = conda.pop("pytorch")
    assert len(wanted) > 8 and {name: conda.get(name) for name in wanted} == wanted


def test_repository_stands_in_pyproject_once():
    assert (ROOT / "pyproject.toml").read_text().count("github.com") == 1
