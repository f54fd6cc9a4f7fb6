"""The panel's widgets and how they lie: nothing here knows what they do.

They are core widgets of ipywidgets 7.7 and 8. Every control has a label that belongs to it, all
can be reached with the Tab key, nothing is wider than 400 pixels unless there is room, and
no colours are set. Texts from outside go through `html.py`; labels are constants,
because ipywidgets 7 shows them as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
from ipywidgets import Layout

from .data import DEFAULT_QUESTION
from .uploads import UploadButton

# Label, question. The first is what LLaVA-1.5 and the embedded model were both trained on.
PRESETS = (
    ("Describe", DEFAULT_QUESTION),
    ("Describe in detail", "Describe this picture in detail."),
    ("Short caption", "Give a short caption."),
    ("Text for who cannot see it", "Describe this picture in one sentence for a blind person."),
    ("List the objects", "List the objects in this picture."),
    ("Count", "How many things are there?"),
    ("Colours", "What colours are in this picture?"),
    ("Read the text", "What text is in this picture? Write it exactly as it stands there."),
    ("What is unusual?", "What is unusual about this picture?"),
    ("In Korean", "이 그림을 한국어로 설명해 주세요."),
)
HINT = "Enter asks. It stays about the same picture until you choose another, or press Clear."
# Beside the sliders these would leave no room for the sliders on a narrow page.
ABOUT_OPTIONS = (
    "An answer is counted in tokens, about three quarters of a word each. With temperature 0 the "
    "same question gives the same answer; above it words are drawn, from the likeliest top-p."
)
NO_ARRIVAL = "Nothing arrived?"


def row(*children: widgets.Widget) -> widgets.HBox:
    """Return widgets side by side, wrapped where the page is narrow."""
    layout = Layout(flex_flow="row wrap", align_items="center", grid_gap="4px", width="100%")
    return widgets.HBox(children, layout=layout)


def _wide(basis: str = "18em") -> Layout:
    return Layout(width="auto", flex=f"1 1 {basis}", min_width="0", max_width="60em")


def _button(label: str, tooltip: str, style: str = "") -> widgets.Button:
    return widgets.Button(
        description=label,
        tooltip=tooltip,
        button_style=style,
        layout=Layout(width="auto", min_width="5em"),
    )


def _html(css_class: str) -> widgets.HTML:
    made = widgets.HTML(layout=Layout(width="auto", min_width="0", margin="2px"))
    made.add_class(css_class)
    return made


def _small(text: str) -> str:
    """Return one of the constants above as small print; the widget's own lines are far apart."""
    return f'<div style="line-height: 1.4"><small>{text}</small></div>'


def _slider(
    kind: type[widgets.Widget], label: str, value: float, *, low: float, high: float, step: float
) -> widgets.Widget:
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        style={"description_width": "initial"},
        layout=Layout(width="auto", max_width="34em", min_width="0"),
    )


class Controls:
    """All widgets of a panel by name; `all` is what to show, top to bottom."""

    def __init__(self, upload: UploadButton, examples: Sequence[tuple[str, str]]) -> None:
        self.upload = upload
        short = {"description_width": "initial"}
        self.model, self.desk = _html("llava-model"), _html("llava-desk")
        self.talk = _html("llava-talk")
        self.notice, self.links = _html("llava-notice"), _html("llava-links")
        self.memory, self.hint = _html("llava-memory"), _html("llava-hint")
        self.hint.value = _small(HINT)

        self.path = widgets.Textarea(
            description="Path or URL",
            placeholder="one a line; Enter opens",
            rows=1,
            style=short,
            layout=_wide(),
        )
        self.open = _button("Open", "Open these paths or addresses")
        self.renew = _button(NO_ARRIVAL, "A file was chosen and nothing happened")
        self.colab = _button("Upload in Colab", "Colab's own upload, which takes large files")

        self.examples = [
            _button(question, "Take this picture and ask this") for _, question in examples
        ]
        cards = []
        for (card, _), button in zip(examples, self.examples, strict=True):
            image = _html("llava-example")
            image.value = card
            cards.append(widgets.VBox([image, button], layout=Layout(align_items="center")))
        self.gallery = row(*cards)

        self.preset = widgets.Dropdown(
            options=[("Choose a question ...", ""), *PRESETS],
            description="Suggestions",
            style=short,
            layout=Layout(width="auto", max_width="100%"),
        )
        self.question = widgets.Textarea(
            description="Question", rows=2, style=short, layout=_wide()
        )
        self.ask = _button("Ask", "Ask about each picture", "primary")
        self.stop = _button("Stop", "End the answer now", "warning")
        self.more = _button("Continue", "Go on with an answer that was cut short")
        self.again = _button("Regenerate", "Answer the last question again")
        self.clear = _button("Clear", "A new conversation about the same picture")
        self.save = _button("Save record", "Write everything asked here as CSV, JSONL and HTML")

        self.length = _slider(widgets.IntSlider, "Longest answer", 256, low=16, high=1024, step=16)
        self.temperature = _slider(widgets.FloatSlider, "Temperature", 0, low=0, high=1.5, step=0.1)
        self.top_p = _slider(widgets.FloatSlider, "Top-p", 1, low=0.05, high=1, step=0.05)
        self.top_p.disabled = True  # as long as the temperature is 0
        self.crop = widgets.Dropdown(
            options=[("the whole picture, padded", False), ("the middle square", True)],
            description="The model sees",
            style=short,
            layout=Layout(width="auto", max_width="100%"),
        )
        about = _html("llava-about-options")
        about.value = _small(ABOUT_OPTIONS)
        self.options = widgets.VBox([self.length, self.temperature, self.top_p, self.crop, about])
        self.options.layout.display = "none"
        # A button rather than an accordion, whose title the Tab key does not reach.
        self.show_options = widgets.ToggleButton(
            description="Options", tooltip="Length, variety, padding", layout=Layout(width="auto")
        )

        for name in ("path", "question", "ask", "stop", "more", "again", "clear", "save"):
            getattr(self, name).add_class(f"llava-{name}")
        self.all = (
            self.model,
            row(upload.box, self.path, self.open, self.colab, self.renew),
            self.gallery,
            self.desk,
            row(self.preset),
            row(self.question, self.ask, self.stop),
            self.hint,
            row(self.show_options),
            self.options,
            self.notice,
            self.talk,
            row(self.more, self.again, self.clear, self.save),
            self.links,
            self.memory,
        )
