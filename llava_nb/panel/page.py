"""What the page does for the panel: pictures chosen, dropped, pasted or taken, and Enter.

`page.js` runs in the page, shrinks pictures there and sends them in one of two ways: through
anywidget, or in Colab, whose own widget manager loads no other widgets, through a callback of
`google.colab`. It draws into an HTML widget, and what the panel has to tell it stands in that
widget's value. Where no script answers within two seconds there is a plain upload button.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML, display

from ..machine import place
from .sources import BUFFERS, Source, UploadButton
from .texts import texts_of
from .worker import MOST

TEXT_NAMES = ("choose", "camera", "upload", "reading", "lost")
TEXTS = {name: texts_of("en")[name] for name in TEXT_NAMES}
SCRIPT = Path(__file__).with_name("page.js")
MOST_AT_ONCE = 10_000  # pictures that the page may say were chosen
STARTED = 4  # choices of which some pictures are still on their way; an older one is given up
STYLE = """<style>
@keyframes llava-late { from, to { visibility: hidden; max-height: 0; } }
.llava-upload { animation: llava-late 2s step-end; }
.llava-live + .llava-upload { display: none !important; }
.llava-drop { display: flex; flex-wrap: wrap; gap: 4px; }
.llava-drop button { font: inherit; color: inherit; background: rgba(128, 128, 128, 0.1);
 border: 1px dashed rgba(128, 128, 128, 0.8); border-radius: 4px; padding: 0.6em 1em; }
.llava-drop button:disabled { opacity: 0.5; }
.llava-over { outline: 2px dashed; outline-offset: 2px; }
@media not all and (pointer: coarse) { .llava-drop .llava-camera { display: none; } }
</style>"""


class PageLink:
    """One place to put a picture, and the keys of the question box.

    `on_pictures` gets what was chosen at once, `on_ask` the question in whose box Enter was
    pressed; both are called in any thread and have to return soon. `widget` is to be shown where
    one picks a picture. The page listens on the element of the class `llava-panel` around it: to
    pictures dropped or pasted, and to Enter in the text area within `llava-question`.
    """

    def __init__(
        self,
        *,
        on_pictures: Callable[[tuple[Source, ...]], None],
        on_ask: Callable[[str], None],
    ) -> None:
        self.keys_seen = False  # whether a page has answered, and so tells Enter from Shift+Enter
        self._on_pictures, self._on_ask = on_pictures, on_ask
        self._id = uuid.uuid4().hex
        self._started: dict[str, dict[int, Source]] = {}
        self._texts, self._enabled = dict(TEXTS), True
        self._place = widgets.HTML(layout=widgets.Layout(width="auto", margin="0"))
        self._place.add_class("llava-place")
        self.upload = UploadButton(on_pictures, description=TEXTS["upload"])
        self.upload.layout.width = "auto"
        self.widget = widgets.VBox((self._place, self.upload))
        self.widget.layout.width = "auto"
        self._colab = _colab_output()
        self._model = None
        if self._colab is not None:
            self._colab.register_callback(self._callback_name, self._from_colab)
        else:
            self._model = _script_model(self._id, self._from_model)
        self._show()

    @property
    def _callback_name(self) -> str:
        return f"llava_nb.picture.{self._id}"

    def set_enabled(self, enabled: bool) -> None:
        """Grey it out, or not: then nothing can be chosen, dropped or pasted."""
        if enabled != self._enabled:
            self._enabled = enabled
            self._show()

    def set_texts(self, texts: Mapping[str, str]) -> None:
        """Set texts in the panel's language: the names in `TEXTS`; the others stay."""
        self._texts.update(texts)
        self._show()

    def display_script(self) -> None:
        """Show the script in the output of the running cell; does nothing outside of Colab.

        To be called whenever the panel is displayed: each output of Colab is a page of its own.
        """
        if self._colab is not None:
            start = f"colab({json.dumps(self._id)});"
            display(HTML(f"<script>(() => {{\n{_code()}\n{start}\n}})()</script>"))

    def close(self) -> None:
        """Take it off the page."""
        if self._colab is not None:
            self._colab.register_callback(self._callback_name, _ignore)
        for each in (self._model, self._place, self.upload, self.widget):
            if each is not None:
                each.close()

    def _show(self) -> None:
        texts = escape(json.dumps(self._texts))
        enabled = "true" if self._enabled else "false"
        self._place.value = (
            f'{STYLE}<div class="llava-drop" data-link="{self._id}" data-enabled="{enabled}" '
            f'data-most="{MOST}" data-texts="{texts}"></div>'
        )
        self.upload.disabled = not self._enabled
        self.upload.description = self._texts["upload"]

    # From the page: nothing that comes may be trusted, and nothing may raise.

    def _from_model(self, _: Any, content: Any, buffers: Sequence[Any]) -> None:
        self._take(content, buffers[0] if buffers else b"")

    def _from_colab(self, content: Any = None, data: Any = "", *_: Any) -> None:
        try:
            self._take(content, base64.b64decode(data, validate=True))
        except (TypeError, ValueError):  # no base64
            self._take(content, b"")

    def _take(self, content: Any, data: Any) -> None:
        """Do what a message says; what no page of ours would send is ignored."""
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind in ("here", "ask", "picture"):
            self.keys_seen = True
        if kind == "ask" and isinstance(content.get("text"), str):
            self._on_ask(content["text"])
        elif kind == "picture" and isinstance(data, BUFFERS):
            self._take_picture(content, bytes(data))

    def _take_picture(self, content: Mapping[str, Any], data: bytes) -> None:
        """Keep a picture until all that were chosen with it are there."""
        numbers = [_count(content.get(name), MOST_AT_ONCE) for name in ("at", "sent", "all")]
        choice = content.get("choice")
        if None in numbers or not isinstance(choice, str):
            return
        at, sent, all_chosen = numbers
        started = self._started.setdefault(choice[:40], {})
        started[at] = _source_of(content, data)
        if len(started) >= sent:
            del self._started[choice[:40]]
            # Those that were left in the page count too: the panel says how many it takes.
            left = (Source(b"", "picture"),) * (all_chosen - sent)
            self._on_pictures((*(started[each] for each in sorted(started)), *left))
        while len(self._started) > STARTED:
            del self._started[next(iter(self._started))]


def _source_of(content: Mapping[str, Any], data: bytes) -> Source:
    """Return a picture as its message describes it, with what makes no sense left out."""
    name = content.get("name")
    name = name[:255] if isinstance(name, str) and name.strip() else "picture"
    shrunk = content.get("shrunk_from")
    sides = [_count(each) for each in shrunk] if isinstance(shrunk, list) else []
    return Source(
        data,
        name,
        _count(content.get("size")),
        tuple(sides) if len(sides) == 2 and None not in sides else None,
        _count(content.get("limit")) if not data else None,
    )


def _count(value: Any, most: int = 2**53) -> int | None:
    """Return a whole number from 0 to `most`, None for anything else."""
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    return value if right else None


def _ignore(*_: Any) -> None:
    """In place of a callback of a panel that is gone."""


def _code() -> str:
    return SCRIPT.read_text(encoding="utf-8")


def _colab_output() -> Any:
    """Return Colab's module for outputs and callbacks, None elsewhere."""
    if place() != "colab":
        return None
    try:
        from google.colab import output
    except ImportError:
        return None
    return output


def _script_model(link: str, take: Callable[..., None]) -> widgets.Widget | None:
    """Return the widget that runs the script in each page, None without anywidget.

    It is never shown: where the page does not know anywidget, a view would be an error message.
    """
    try:
        from anywidget import AnyWidget
    except ImportError:
        return None
    start = f"export default {{ initialize: jupyter({json.dumps(link)}) }};"
    made = AnyWidget(_esm=f"{_code()}\n{start}")
    made.on_msg(take)
    return made
