"""A front end without a browser: it starts a kernel and plays ipywidgets' protocol with it.

It mirrors the state of every widget from the messages of the kernel, and sends what a page
sends: clicks, values, uploads with their buffers. Widgets are found by their class (`add_class`)
or a button's label. The protocol is the same in ipywidgets 7 and 8, but for what an upload button
holds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

TIMEOUT = 60.0
FAKES = Path(__file__).parents[1] / "unit"


class FrontEnd:
    """A kernel, and the widgets of it as a page would know them: `widgets[comm id]`.

    `displays` is what cells displayed before their last line, by MIME type.
    """

    def __init__(self) -> None:
        self.widgets: dict[str, dict[str, Any]] = {}
        self.errors: list[dict[str, Any]] = []
        self.displays: list[dict[str, Any]] = []
        self.streams = ""
        self.manager = KernelManager()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager._kernel_spec = KernelSpec(argv=argv, language="python", display_name="tests")

    def __enter__(self) -> FrontEnd:
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT)
        return self

    def __exit__(self, *_: Any) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> dict[str, Any]:
        """Run a cell and return what its last line shows, by MIME type."""
        asked = self.client.execute(code)
        shown: dict[str, Any] = {}
        while True:
            message = self.read(TIMEOUT)
            assert message is not None, f"the cell did not end: {code}"
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] in ("execute_result", "display_data"):
                shown = message["content"]["data"]
            if message["msg_type"] == "error":
                raise AssertionError("\n".join(message["content"]["traceback"]))
            if message["content"].get("execution_state") == "idle":
                return shown

    def read(self, seconds: float) -> dict[str, Any] | None:
        """Read one message and note what it says; None if there was none in time."""
        try:
            message = self.client.get_iopub_msg(timeout=seconds)
        except Exception:  # queue.Empty, by whatever name this version raises it
            return None
        content, kind = message["content"], message["msg_type"]
        if kind == "comm_open" and content["target_name"] == "jupyter.widget":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            self.widgets[content["comm_id"]].update(content["data"]["state"])
        elif kind == "comm_close":
            self.widgets.pop(content["comm_id"], None)
        elif kind == "display_data":
            self.displays.append(content["data"])
        elif kind == "error":
            self.errors.append(content)
        elif kind == "stream":
            self.streams += content["text"]
        return message

    def wait_for(self, holds: Any, seconds: float = TIMEOUT) -> Any:
        """Read messages until `holds()` gives something true, and return it."""
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, f"it did not come: {self.errors} {self.streams}"
            self.read(0.2)
        return found

    def settle(self, seconds: float = 0.5) -> None:
        """Read until nothing has come for a while."""
        while self.read(seconds) is not None:
            pass

    def find(self, name: str) -> str:
        """Return the comm id of the widget with this class, or of the button with this label."""
        for comm, state in self.widgets.items():
            if f"llava-{name}" in state.get("_dom_classes", ()):
                return comm
            if state.get("_model_name") == "ButtonModel" and state.get("description") == name:
                return comm
        raise AssertionError(f"there is no widget {name!r}")

    def value(self, name: str) -> Any:
        """Return the value of a widget as the page knows it."""
        return self.widgets[self.find(name)]["value"]

    def text(self, name: str) -> str:
        """Return the values of all widgets with this class, one after the other."""
        states = [
            each
            for each in self.widgets.values()
            if f"llava-{name}" in each.get("_dom_classes", ())
        ]
        return "".join(each["value"] for each in states)

    def enabled(self, name: str) -> bool:
        """Whether the page lets a widget be pressed."""
        return not self.widgets[self.find(name)]["disabled"]

    def send(self, comm: str, data: dict[str, Any], buffers: tuple[bytes, ...] = ()) -> None:
        """Send a message of the widget protocol."""
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        message["buffers"] = list(buffers)
        self.client.shell_channel.send(message)

    def click(self, name: str) -> None:
        """Press a button."""
        self.send(self.find(name), {"method": "custom", "content": {"event": "click"}})

    def enter(self, name: str, value: Any) -> None:
        """Change a widget's value, as typing does."""
        comm = self.find(name)
        self.widgets[comm]["value"] = value
        self.send(comm, {"method": "update", "state": {"value": value}, "buffer_paths": []})

    def put(self, name: str, data: bytes) -> None:
        """Send a picture as the panel's script does, through the widget that runs it."""
        comm = next(comm for comm, state in self.widgets.items() if "_esm" in state)
        about = {"kind": "picture", "choice": name, "at": 0, "sent": 1, "all": 1, "name": name}
        self.send(comm, {"method": "custom", "content": about}, (data,))

    def upload(self, *files: tuple[str, bytes], lost: bool = False) -> None:
        """Choose files; `lost` sends an upload whose bytes are missing."""
        comm = self.find("upload")
        contents = [b"" if lost else data for _, data in files]
        about = [{"name": name, "type": "image/png", "size": len(data)} for name, data in files]
        if "_counter" in self.widgets[comm]:  # ipywidgets 7
            metadata = [each | {"lastModified": 1} for each in about]
            count = self.widgets[comm]["_counter"] + len(files)
            state = {"_counter": count, "metadata": metadata, "data": [None] * len(files)}
            paths = [["data", at] for at in range(len(files))]
        else:
            state = {"value": [each | {"last_modified": 1} for each in about]}
            paths = [["value", at, "content"] for at in range(len(files))]
        data = {"method": "update", "state": state, "buffer_paths": paths}
        self.send(comm, data, tuple(contents))
