"""A JupyterLab or a Voila of its own for the browser tests, with the kernel under test.

The servers live in `.venv-browser` (`set_up.sh`); the kernel is that of the Python that runs the
tests, so one server serves ipywidgets 8 and, with Colab's versions, 7.7.1: only the front end
beside it differs. A server has its settings, data and notebooks in one temporary folder and is
started in a process group of its own, which is ended whatever happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import v4

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ROOT / ".venv-browser"
VERSION = importlib.metadata.version("ipywidgets")
FRONT_END = SERVERS / f"ipywidgets-{VERSION.split('.')[0]}" / "share" / "jupyter"
AXE = SERVERS / "axe" / "axe_playwright_python" / "axe.min.js"
SECONDS = 90.0  # until a server that does not answer is given up
KERNEL = {
    "display_name": "tests",
    "language": "python",
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
}
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
KEEP_STATE = {"saveState": True}  # a saved notebook then has the state of its widgets
COMMANDS = {
    "lab": (
        "jupyterlab",
        "--allow-root",
        "--expose-app-in-browser",
        "--IdentityProvider.token=",
        "--ServerApp.port_retries=0",
    ),
    "voila": ("voila", "--Voila.port_retries=0"),
}
ADDRESSES = {"lab": "doc/tree/{notebook}?reset", "voila": "voila/render/{notebook}"}


def end_with_parent() -> None:
    """In a server at its start: have Linux end it if the tests are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server: `kind` is "lab" or "voila", `notebooks` the folder it shows."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.port = kind, free_port()
        self.notebooks = folder / "notebooks"
        self.log = folder / "log.txt"
        self._folder = folder

    def address(self, notebook: str) -> str:
        """Return where the browser finds a notebook."""
        return f"http://127.0.0.1:{self.port}/{ADDRESSES[self.kind].format(notebook=notebook)}"

    def add_notebook(self, name: str, *cells: str) -> None:
        """Write a notebook of code cells for the kernel under test."""
        about = {"kernelspec": {"name": "tests", "display_name": "tests"}}
        notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata=about)
        nbformat.write(notebook, self.notebooks / name)

    def environment(self) -> dict[str, str]:
        """Variables for the server and its kernels: nothing of the user's is read or written."""
        paths = [str(ROOT), str(ROOT / "tests" / "unit"), os.environ.get("PYTHONPATH", "")]
        folders = {
            name: str(self._folder / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        }
        return {
            **os.environ,
            **folders,
            "JUPYTERLAB_SETTINGS_DIR": str(self._folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self._folder / "workspaces"),
            "JUPYTER_PATH": str(FRONT_END),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # Colab's ipykernel brings a debugger that warns at every start.
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }

    def write_settings(self) -> None:
        """Lay out the folder: the kernel under test, and no questions from JupyterLab."""
        kernel = self._folder / "jupyter_data_dir" / "kernels" / "tests" / "kernel.json"
        settings = self._folder / "settings"
        news = settings / "@jupyterlab" / "apputils-extension"
        manager = settings / "@jupyter-widgets" / "jupyterlab-manager"
        self.notebooks.mkdir()
        for path, content in (
            (kernel, KERNEL),
            (news / "notification.jupyterlab-settings", NO_NEWS),
            (manager / "plugin.jupyterlab-settings", KEEP_STATE),
        ):
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))

    def wait_until_it_answers(self, process: subprocess.Popen) -> None:
        """Return as soon as the port is open; show the log if that does not come about."""
        end = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.kind} did not start:\n{self.log.read_text()[-3000:]}")


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    """Start a server in an empty folder, and end it with everything it started."""
    server = Server(kind, folder)
    server.write_settings()
    module, *options = COMMANDS[kind]
    where = [str(server.notebooks)] if kind == "voila" else []
    where += [f"--ServerApp.root_dir={server.notebooks}"] if kind == "lab" else []
    command = [str(SERVERS / "bin" / "python"), "-m", module, "--no-browser", *options]
    command += [f"--port={server.port}", *where]
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=server.notebooks,
            env=server.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            server.wait_until_it_answers(process)
            yield server
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a server: politely, so that it ends its kernels, then by force."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
