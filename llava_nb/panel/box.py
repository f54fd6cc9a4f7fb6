"""`caption_panel(llava)`: a picture in, a question, the answer word by word, a Stop that stops.

A box of ipywidgets in a notebook cell: no server, no public link, no listening socket. Here is
only what code calls; the parts are put together here too. A click becomes an event
(`wires.py`), the state machine says what follows (`state.py`), the worker does it
(`worker.py`), the view shows it (`view.py`). Nothing is printed: what a callback
prints is lost.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ..errors import LlavaNbError, plain
from ..pictures import example_picture
from ..prompts import check_question
from . import html, record
from .data import Entry, PanelState
from .events import Ask, Displayed, Stop
from .layout import Controls
from .pictures import Source, open_source, sources_of
from .runner import Runner
from .uploads import UploadButton
from .view import View
from .wires import Wires

if TYPE_CHECKING:
    from ..inference.llava import Llava

EXAMPLES = (
    ("one_shape.png", "What is in this picture?"),
    ("two_shapes.png", "Describe this picture."),
    ("three_shapes.png", "How many things are there?"),
)


def caption_panel(llava: Llava) -> CaptionPanel:
    """Return the panel for a loaded model; as the last line of a cell it is shown.

    Raises LlavaNbError for anything but a loaded model.
    """
    if not hasattr(llava, "chat"):
        raise LlavaNbError(
            f"caption_panel takes a loaded model, not {plain(repr(llava))}: "
            "caption_panel(llava_nb.load())."
        )
    return CaptionPanel(llava)


class CaptionPanel(widgets.VBox):
    """The panel. `llava` is the model that answers.

    `choose`, `ask`, `stop` and `save` do in code what the controls do, and the panel shows it.
    """

    def __init__(self, llava: Llava) -> None:
        self.llava = llava
        sources = [Source(example_picture(name), name) for name, _ in EXAMPLES]
        questions = [question for _, question in EXAMPLES]
        cards = [html.example_card(each.name, open_source(each).thumbnail) for each in sources]
        upload = UploadButton()
        controls = Controls(upload, list(zip(cards, questions, strict=True)))
        # A model whose processor does not pad sees the middle square, whatever is chosen here.
        pads = bool(getattr(llava.processor.image_processor, "do_pad", False))
        controls.crop.layout.display = None if pads else "none"
        view = View(llava, controls)
        self._runner = Runner(llava, view.show, pads=pads)
        view.explain = self._runner.explain
        examples = list(zip(sources, questions, strict=True))
        self._wires = Wires(controls, self._runner, view, upload, examples)
        self._wires.connect()
        self.controls = controls
        super().__init__(controls.all, layout=widgets.Layout(width="100%"))
        if hasattr(self, "on_displayed"):  # ipywidgets 7
            self.on_displayed(lambda *_, **__: self._runner.do(Displayed()))
        self._runner.do(Displayed())

    def __repr__(self) -> str:
        return f"<CaptionPanel of {self.llava.name}, {len(self.history)} answer(s)>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        self._runner.do(Displayed())  # ipywidgets 8
        return super()._repr_mimebundle_(**kwargs)

    @property
    def state(self) -> PanelState:
        """What the panel shows at this moment."""
        return self._runner.state

    @property
    def history(self) -> tuple[Entry, ...]:
        """Everything asked in this panel, oldest first."""
        return self.state.history

    @property
    def faults(self) -> deque[str]:
        """The tracebacks of the last errors that were not expected, as text."""
        return self._runner.faults

    def choose(self, *sources: Any) -> None:
        """Put pictures on the desk: whatever `open_image` takes, or a dict of named bytes.

        Waits until they are open; those that cannot be read are told in the panel.
        """
        self._wires.choose(sources_of(sources))
        self.wait()

    def ask(self, question: str | None, **settings: Any) -> tuple[Entry, ...]:
        """Ask about each picture on the desk, wait, and return what came of it.

        None is the question in the box. `settings` are max_new_tokens, temperature and top_p; by
        default those of the panel. Raises PromptError for a question that is no text.
        """
        if question is not None and not isinstance(question, str):
            check_question(question)  # says what came in place of a question
        before = len(self.history)
        self._runner.do(self._wires.question(Ask, question, **settings))
        self.wait()
        return self.history[before:]

    def stop(self) -> None:
        """End what is under way."""
        self._runner.do(Stop())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False if that took longer than `timeout` seconds.

        An interrupt ends the answer too.
        """
        return self._runner.wait(timeout)

    def save(self, folder: str | os.PathLike = ".") -> list[Path]:
        """Write the record as CSV, JSONL and an HTML page into a folder; return the paths.

        Later calls replace what this panel wrote there. Raises LlavaNbError.
        """
        return record.save(self.history, folder, self._wires.record_name)
