"""The upload button of ipywidgets 7 and 8: read, emptied, and replaced when it has died.

An upload stays in the widget's state, and so in the saved notebook, until it is taken out.
One larger than the connection carries never arrives, tells nobody, and leaves a button that
does nothing more; but the page then connects anew and asks every widget for its state, and
that is noticed. Not covered: opening what was uploaded (`pictures.py`).
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from .pictures import Source

SETTLE = 0.5  # seconds until a page that connects anew has asked for everything


class WatchedUpload(widgets.FileUpload):
    """A FileUpload that calls `when_asked` if a page asks for its whole state."""

    when_asked: Callable[[], None] | None = None

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the state; without `key` a page has been connected, anew or another one."""
        if key is None and self.when_asked is not None:
            self.when_asked()
        return super().get_state(key, drop_defaults)


class UploadButton:
    """An upload button in `box`.

    `arrived` is called with a tuple of Sources, `reconnected` without anything once a page
    has connected anew and the button was replaced. Both are called in any thread.
    """

    def __init__(self) -> None:
        self.arrived: Callable[[tuple[Source, ...]], None] = lambda sources: None
        self.reconnected: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        # Voila runs the notebook first and connects its page then, asking twice: no loss.
        in_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
        self._expected = 2 if in_voila else 0
        # ipykernel 7 sends what a page says to whoever wrote to that widget last. What notices a
        # lost page is told so in a helper of that page, which is gone when the new button is there.
        self._context = contextvars.copy_context()
        self.box = widgets.HBox([], layout=widgets.Layout(width="auto"))
        self.renew()

    @property
    def widget(self) -> widgets.FileUpload:
        """The button of this moment."""
        return self.box.children[0]

    def renew(self) -> None:
        """Put a new button in place of the old one."""
        old = self.box.children
        new = WatchedUpload(accept="image/*", multiple=True, description="Upload pictures")
        new.layout.width = "auto"
        # On 7 the value does not change when the same file comes twice; the counter does.
        new.observe(self._take, "_counter" if new.has_trait("_counter") else "value")
        new.add_class("llava-upload")
        new.when_asked = self._when_asked
        self.box.children = (new,)
        for each in old:
            each.when_asked = None
            each.unobserve_all()
            each.close()

    def _take(self, change: Mapping[str, Any]) -> None:
        if change["new"]:  # not when it is emptied
            sources = uploaded(change["owner"])
            empty(change["owner"])
            self.arrived(sources)

    def _when_asked(self) -> None:
        if self._expected:
            self._expected -= 1
        elif self._timer is None or not self._timer.is_alive():
            # Not now: whoever asks is going through the list of all widgets.
            self._timer = threading.Timer(SETTLE, self._context.copy().run, [self._replace])
            self._timer.daemon = True
            self._timer.start()

    def _replace(self) -> None:
        try:
            self.renew()
        finally:
            self.reconnected()


def uploaded(widget: widgets.FileUpload) -> tuple[Source, ...]:
    """Return what lies in an upload button, with the sizes that the browser told."""
    if widget.has_trait("_counter"):  # 7: the value is by name, and two files may have one name
        files = list(zip(widget.metadata, widget.data, strict=False))
        found = tuple(Source(bytes(data), about["name"], about["size"]) for about, data in files)
        return found or (Source(b"", "the upload"),)
    return tuple(
        Source(bytes(each["content"]), each["name"], each["size"]) for each in widget.value
    )


def empty(widget: widgets.FileUpload) -> None:
    """Take the files out of an upload button, so that no notebook keeps them."""
    if widget.has_trait("_counter"):
        # In this order: the value is made of these two when the counter changes.
        widget.metadata, widget.data = [], []
        widget._counter = 0
    else:
        widget.value = ()
