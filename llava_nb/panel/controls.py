"""The widgets of the panel and how they lie: core widgets of ipywidgets 7.7 and 8.

Where they are on the page and how they look is said in panel.css. Every control has a label, and
all can be reached with the Tab key, in the order of use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
from ipywidgets import Layout

from ..inference.answer import MAX_NEW_TOKENS
from .html import STYLE
from .page import PageLink

CHIPS = 6  # suggestions that are always shown; about one line


def named_html(name: str, value: str = "") -> widgets.HTML:
    """Return a place for HTML that has a class by its name."""
    return _named(widgets.HTML(value, layout=Layout(margin="0", width="auto")), name)


def _box(name: str, *children: widgets.Widget) -> widgets.Box:
    return _named(widgets.Box(children), name)


def _named(widget: widgets.Widget, *names: str) -> widgets.Widget:
    for name in names:
        widget.add_class(f"llava-{name}")
    return widget


def _button(label: str, *names: str, tooltip: str = "") -> widgets.Button:
    return _named(widgets.Button(description=label, tooltip=tooltip or label), *names)


def _shown_by(label: str, name: str, *boxes: widgets.Widget) -> widgets.ToggleButton:
    """Return a quiet button that shows boxes and hides them."""
    button = _named(widgets.ToggleButton(description=label, tooltip=label), name, "quiet")
    for box in boxes:
        shown = (box.layout, "display")
        widgets.dlink((button, "value"), shown, lambda pressed: None if pressed else "none")
    return button


def show(widget: widgets.Widget, is_shown: Any) -> None:
    """Show a widget, or do not."""
    widget.layout.display = None if is_shown else "none"


def set_class(widget: widgets.Widget, name: str, is_set: Any) -> None:
    """Give a widget a class, or take it away."""
    change = widget.add_class if is_set else widget.remove_class
    change(f"llava-{name}")


class Controls:
    """All widgets of a panel by name; `all` is what to show.

    `examples` are (HTML of a picture, question), `presets` (label, question).
    """

    def __init__(
        self,
        page: PageLink,
        texts: Mapping[str, str],
        title: str,
        examples: Sequence[tuple[str, str]],
        presets: Sequence[tuple[str, str]],
        compared: Sequence[tuple[str, Any]],
        models: Sequence[str],
    ) -> None:
        self.pictures, self.notice = named_html("pictures"), named_html("notice")
        area = {"layout": Layout(width="auto", margin="0")}
        self.path = _named(widgets.Textarea(placeholder=texts["path_hint"], rows=1, **area), "path")
        self.open = _button(texts["open"], "open")
        by_path = _box("by-path", self.path, self.open)
        self.show_path = _shown_by(texts["by_path"], "show-path", by_path)
        self.examples = [_button(text, "chip") for _, text in examples]
        cards = [
            _box("card", named_html("example", card), button)
            for (card, _), button in zip(examples, self.examples, strict=True)
        ]
        hint = named_html("hint", f"<span>{texts['or_example']}</span>")
        self.all_examples = _box("examples", hint, *cards)
        self.left = _box(
            "left", self.pictures, page.widget, self.show_path, by_path, self.all_examples
        )

        self.empty = named_html("empty", f"<span>{texts['empty']}</span>")
        self.models = widgets.Dropdown(description=texts["model"], options=models)
        self.load = _button(texts["load"], "load", "primary")
        self.why = named_html("why")
        self.loader = _box("loader", self.why, self.models, self.load)
        self.resume = _button(texts["resume"], "resume", "quiet")
        self.more = _button(texts["more"], "more", "quiet")
        self.again = _button(texts["again"], "again", "quiet")
        self.actions = _box("actions", self.more, self.again)
        self.before = (self.empty, self.loader, self.resume)  # what stands above the questions
        self.after = (self.actions, self.notice)  # and below them
        self.thread = _box("thread", *self.before, *self.after)
        self.presets = [_button(label, "chip", tooltip=text) for label, text in presets]
        rest = self.presets[CHIPS:]
        self.more_presets = _shown_by(texts["more_presets"], "more-presets", *rest)
        chips = _box("chips", *self.presets, *([self.more_presets] if rest else []))
        hint = texts["question_hint"]
        self.question = _named(widgets.Textarea(placeholder=hint, rows=2, **area), "question")
        self.ask = _button(texts["ask"], "ask", "primary")
        composer = _box("composer", self.question, self.ask)
        right = _box("right", _box("talk", self.thread), chips, composer)

        self.model = named_html("model")
        self.clear = _button(texts["clear"], "clear", "quiet")
        self.save = _button(texts["save"], "save", "quiet")
        self.memory, self.details = named_html("memory"), named_html("details")
        self.length = _slider(
            widgets.IntSlider, texts["length"], MAX_NEW_TOKENS, min=16, max=1024, step=16
        )
        self.temperature = _slider(
            widgets.FloatSlider, texts["temperature"], 0, min=0, max=1.5, step=0.1
        )
        self.top_p = _slider(widgets.FloatSlider, texts["top_p"], 1, min=0.05, max=1, step=0.05)
        self.sliders = (self.length, self.temperature, self.top_p)
        widgets.dlink((self.temperature, "value"), (self.top_p, "disabled"), lambda it: it == 0)
        self.compare = _named(
            widgets.Dropdown(description=texts["compare"], options=compared), "compare"
        )
        self.show_details = _shown_by(texts["details"], "show-details", self.details)
        about = named_html("hint", f"<span>{texts['about_options']}</span>")
        settings = _box("settings", *self.sliders, self.compare, about)
        taken = _box("taken", self.memory, self.show_details, self.details)
        self.options = _box("options", settings, taken)
        self.show_options = _shown_by(texts["options"], "show-options", self.options)
        foot = _box("foot", self.model, self.clear, self.save, self.show_options)
        grid = _box("grid", self.left, right, foot, self.options)
        style = named_html("style", STYLE)
        show(style, False)  # it applies all the same
        heading = [named_html("title", f"<div>{escape(title)}</div>")] if title else []
        self.all = (style, *heading, grid)


def _slider(kind: type[widgets.Widget], label: str, value: float, **options: Any) -> widgets.Widget:
    return _named(kind(value=value, description=label, **options), "slider")
