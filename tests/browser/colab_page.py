"""Colab's side, as far as a page of ours can play it: `colab_page.html`, and a kernel behind it.

The kernel is a real one, in which `google.colab` is a stand-in of a few lines; what it displays and
the states of its widgets come by messages, as in Colab. What Colab itself does beyond that is not
tested: its own views, its line to the kernel, and its limits, which are taken from
jupyter-widgets/ipywidgets#3452.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from front_end import FAKES, FrontEnd
from panel_page import WIDE, PanelPage
from playwright.sync_api import Browser, Locator

PAGE = Path(__file__).with_name("colab_page.html")
COLAB = f"""
import json, os, sys, types
from importlib.machinery import ModuleSpec
sys.path.insert(0, {str(FAKES)!r})
os.environ["COLAB_RELEASE_TAG"] = "stand-in"
callbacks = {{}}
colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
colab.__spec__ = ModuleSpec("google.colab", None)  # torch and others look for it
colab.output = types.SimpleNamespace(register_callback=callbacks.__setitem__)

def invoke(path):
    with open(path) as file:
        name, values, named = json.load(file)
    callbacks[name](*values, **named)
"""
SHOWN = ("_model_name", "_dom_classes", "children", "value", "description", "disabled")


class ColabPage(PanelPage):
    """A panel in Colab's output frame."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        size = dict(zip(("width", "height"), WIDE, strict=True))
        page = browser.new_page(viewport=size)
        super().__init__(SimpleNamespace(kind="colab", notebooks=folder), page, "light")
        # In a thread of its own: in this one playwright's event loop runs.
        self._thread = ThreadPoolExecutor(1)
        self._pulled: dict[str, dict[str, Any]] = {}
        for name in ("pull", "press", "type", "invoke"):
            page.expose_function(name, getattr(self, f"_{name}"))

    def run(self, *cells: str, script: bool = True) -> None:
        """Start a kernel, run the cells, and show what the last one displays.

        Without `script` the page shows the widgets alone.
        """
        self.kernel = self._in_kernel(lambda: FrontEnd().__enter__())
        first = f"{COLAB}os.chdir({str(self.folder)!r})"
        for cell in (first, *cells):
            shown = self._in_kernel(lambda cell=cell: self.kernel.run(cell))
        widget = "application/vnd.jupyter.widget-view+json"
        displays = [*self.kernel.displays, shown]
        (panel,) = {each[widget]["model_id"] for each in displays if widget in each}
        (code,) = {each["text/html"] for each in displays if "text/html" in each}
        self.page.goto(PAGE.as_uri())
        self.frame.locator("#ready").evaluate(
            "(_, it) => show(...it)", [code if script else "", panel]
        )
        self.shows("model", "in 4 bits on")

    def close(self) -> None:
        """End the kernel and close the page."""
        self.page.close()
        with contextlib.suppress(AttributeError):  # it did not start
            self._in_kernel(lambda: self.kernel.__exit__())
        self._thread.shutdown()

    @property
    def frame(self) -> Any:
        """The output frame."""
        return self.page.frame_locator("iframe")

    @property
    def shelf(self) -> Locator:
        """The input that files come onto the page by."""
        return self.frame.locator("#shelf")

    def _in_kernel(self, action: Callable[[], Any]) -> Any:
        return self._thread.submit(action).result()

    # What the page calls.

    def _pull(self) -> dict[str, dict[str, Any]]:
        return self._in_kernel(self._changes)

    def _changes(self) -> dict[str, dict[str, Any]]:
        """Return what there is to show of each widget that has changed."""
        while self.kernel.read(0) is not None:
            pass
        changed = {}
        for comm, state in self.kernel.widgets.items():
            shown = {name: state[name] for name in SHOWN if name in state}
            if not isinstance(shown.get("value", ""), str):
                del shown["value"]
            if "children" in shown:
                shown["children"] = [it.removeprefix("IPY_MODEL_") for it in shown["children"]]
            if "_dom_classes" in shown and self._pulled.get(comm) != shown:
                changed[comm] = self._pulled[comm] = shown
        return changed

    def _press(self, comm: str) -> None:
        click = {"method": "custom", "content": {"event": "click"}}
        self._in_kernel(lambda: self.kernel.send(comm, click))

    def _type(self, comm: str, value: str) -> None:
        change = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        self._in_kernel(lambda: self.kernel.send(comm, change))

    def _invoke(self, message: str) -> None:
        self.sent.append(len(message))
        # By a file: IPython takes minutes to read a cell of half a megabyte.
        path = self.folder / "message.json"
        path.write_text(message)
        self._in_kernel(lambda: self.kernel.run(f"invoke({str(path)!r})"))


@contextlib.contextmanager
def colab_page(
    browser: Browser, folder: Path, cells: tuple[str, ...], *, script: bool = True
) -> Iterator[ColabPage]:
    """Run these cells as in Colab; their panel stands on the page."""
    page = ColabPage(browser, folder)
    try:
        page.run(*cells, script=script)
        yield page
    finally:
        page.close()
