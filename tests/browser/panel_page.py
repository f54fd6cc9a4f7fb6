"""The panel on a page: a notebook opened and run, and what a person does with hand and eye.

Parts of the panel are found by their class (`llava-pictures`), buttons by what stands on them.
Everything here waits for what has to appear, and nothing waits for a time. Screenshots of the
states go into `screenshots/`, which git ignores; nobody compares them, people look at them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lab_and_voila
import numpy
from chromium import WAIT
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

SCREENSHOTS = Path(__file__).parent / "screenshots"
WIDE, NARROW = (1280, 1400), (400, 2000)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
KERNEL_IS_IDLE = (
    "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
    " === 'idle'"
)
# Without `null` the page would hand over, and wait for, what the command returns.
COMMAND = "([name, options]) => { window.jupyterapp.commands.execute(name, options); return null }"
TWO_FRAMES = (
    "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
)
# Without its own typesetting, which comes from the network, ipywidgets 7 says this in Voila.
NO_MATHJAX = "reading 'Queue'"

SHELF = """() => {
    document.getElementById('shelf')?.remove();
    document.body.append(Object.assign(document.createElement('input'),
        {type: 'file', multiple: true, id: 'shelf', hidden: true}));
}"""
HAND_OVER = """(where, [kinds, what]) => {
    const carried = new DataTransfer();
    for (const file of document.getElementById('shelf').files) carried.items.add(file);
    const kind = what === 'dataTransfer' ? DragEvent : ClipboardEvent;
    for (const each of kinds)
        where.dispatchEvent(
            new kind(each, {[what]: carried, bubbles: true, cancelable: true, composed: true}));
}"""

EMBEDDED = (
    "import llava_nb\nllava = llava_nb.load('tiny')",
    "llava_nb.caption_panel(llava)",
)
FAKE = (
    """
import time
from pathlib import Path
from panel_fakes import FakeLlava, no_report
from llava_nb import caption_panel
from llava_nb.panel import panel

panel.vram_report = no_report

class Held(FakeLlava):  # what it does is decided by the files "held" and "broken" beside it
    def before_word(self, number):
        if Path("broken").exists():
            raise ValueError("<b>broken</b>")
        while number and Path("held").exists():
            time.sleep(0.01)

llava = Held()
""".strip(),
    "caption_panel(llava)",
)


class PanelPage:
    """A notebook on a page of its own. `errors` is what went wrong in the page's scripts."""

    def __init__(self, server: lab_and_voila.Server, page: Any, theme: str) -> None:
        self.server, self.page, self.folder = server, page, server.notebooks
        self.errors: list[str] = []
        self._themes = list(THEMES) if server.kind == "lab" else [theme]
        self.sent: list[int] = []  # bytes of each message to the kernel
        page.set_default_timeout(WAIT)
        page.on("websocket", self._count)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _count(self, socket: Any) -> None:
        socket.on("framesent", lambda payload: self.sent.append(len(payload)))

    def run_all(self, notebook: str, theme: str) -> None:
        """Open a notebook, run it, and wait for the panel."""
        address = self.server.address(notebook)
        if self.server.kind == "voila":
            self.page.goto(f"{address}?theme={theme}")
        else:
            self.page.goto(address)
            self.page.wait_for_function(KERNEL_IS_IDLE)
            self.command("notebook:run-all-cells")
        expect(self.part("model")).to_contain_text("·")
        if self.server.kind == "lab":  # nothing may be pressed while the cells still run
            self.page.wait_for_function(KERNEL_IS_IDLE)

    def command(self, name: str, **options: str) -> None:
        """Have JupyterLab do one of its commands."""
        self.page.evaluate(COMMAND, [name, options])

    @property
    def frame(self) -> Any:
        """What the panel stands in."""
        return self.page

    def part(self, name: str) -> Locator:
        """Return a part of the panel by its class."""
        return self.frame.locator(f".llava-{name}")

    def button(self, label: str) -> Locator:
        """Return a button by its label."""
        return self.frame.get_by_role("button", name=label, exact=True)

    @property
    def answer(self) -> Locator:
        """The last answer shown."""
        return self.part("answers").locator(".llava-answer").last

    @property
    def talk(self) -> Locator:
        """All that was asked and answered about the picture on the desk."""
        return self.part("thread")

    def shows(self, name: str, text: str) -> None:
        """Wait until a part of the panel shows a text, as characters."""
        expect(self.part(name)).to_contain_text(text)

    def is_free(self) -> None:
        """Wait until nothing is under way."""
        expect(self.part("ask")).to_contain_text("Ask")

    def choose(self, *paths: Path) -> None:
        """Press the button for pictures and choose files."""
        with self.page.expect_file_chooser() as chooser:
            self.part("choose").click()
        chooser.value.set_files(paths)

    def drop(self, *paths: Path, on: str = "panel") -> None:
        """Drop files on a part of the panel, as from the desktop."""
        self._hand_over(paths, self.part(on), ("dragenter", "dragover", "drop"), "dataTransfer")

    def paste(self, *paths: Path, into: str = "question") -> None:
        """Paste files into a part of the panel, or into its text area."""
        text = self.part(into).locator("textarea")
        where = text if text.count() else self.part(into)
        self._hand_over(paths, where, ("paste",), "clipboardData")

    def _hand_over(self, paths: Sequence[Path], where: Locator, kinds: Any, what: str) -> None:
        """Dispatch events that carry files; an input of our own brings them onto the page."""
        where.evaluate(SHELF)
        self.shelf.set_input_files(paths)
        where.evaluate(HAND_OVER, [list(kinds), what])

    @property
    def shelf(self) -> Locator:
        """The input that files come onto the page by."""
        return self.page.locator("#shelf")

    def upload(self, path: Path) -> None:
        """Choose a file and wait until it is shown and can be asked about."""
        self.choose(path)
        self.shows("pictures", path.name)
        expect(self.part("ask")).to_be_enabled()

    def ask(self, question: str) -> None:
        """Write a question and press Ask."""
        self.part("question").locator("textarea").fill(question)
        self.part("ask").click()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the fake model say one word, and no more before the end."""
        file = self.folder / "held"
        file.touch()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    def shoot(self, state: str) -> None:
        """Take screenshots: each theme there is, wide and narrow."""
        version = lab_and_voila.VERSION.split(".")[0]
        folder = SCREENSHOTS / f"{self.server.kind}-ipywidgets-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / ".gitignore").write_text("*\n")
        for theme in reversed(self._themes):  # and so back to the one it had
            if self.server.kind == "lab":
                self.command("apputils:change-theme", theme=THEMES[theme])
                wanted = f"() => document.body.dataset.jpThemeName === {THEMES[theme]!r}"
                self.page.wait_for_function(wanted)
                # A new theme comes behind a curtain, which fades away.
                self.page.locator("#jupyterlab-splash").wait_for(state="detached")
            for width, height in (NARROW, WIDE):
                self.resize(width, height)
                self.page.screenshot(path=folder / f"{state}-{theme}-{width}.png")

    def resize(self, width: int, height: int) -> None:
        """Make the window another size, and wait until it is laid out anew."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(TWO_FRAMES)


@contextlib.contextmanager
def panel_page(
    browser: Browser,
    server: lab_and_voila.Server,
    cells: tuple[str, ...],
    theme: str = "light",
    name: str = "panel.ipynb",
    without: str | None = None,
) -> Iterator[PanelPage]:
    """Open a notebook of these cells and run it; its panel stands on the page.

    Addresses like `without` are not there.
    """
    server.add_notebook(name, *cells)
    size = dict(zip(("width", "height"), WIDE, strict=True))
    page = PanelPage(server, browser.new_page(viewport=size), theme)
    if without is not None:
        page.page.route(without, lambda route: route.abort())
    try:
        page.run_all(name, theme)
        yield page
    finally:
        page.page.close()


def noise(path: Path, megabytes: float) -> Path:
    """Write a PNG of about so many megabytes (10**6), always the same one."""
    side = round((megabytes * 1e6 / 3) ** 0.5)
    pixels = random.Random(0).randbytes(3 * side * side)
    Image.frombytes("RGB", (side, side), pixels).save(path, compress_level=0)
    return path


def png(path: Path, colour: str = "red", size: tuple[int, int] = (40, 20)) -> Path:
    """Write a small PNG of one colour."""
    Image.new("RGB", size, colour).save(path)
    return path


def photo(path: Path, size: tuple[int, int] = (4000, 3000), **options: Any) -> Path:
    """Write a JPEG like a photo: large things in colour, detail, edges, the noise of a sensor."""
    width, height = size
    random = numpy.random.default_rng(0)
    pixels = numpy.full((height, width, 3), 128, numpy.float32)
    for side, bands in ((2, 3), (6, 3), (16, 3), (45, 1), (130, 1), (400, 1)):
        spots = random.integers(0, 256, (side, side, bands), numpy.uint8).repeat(3 // bands, axis=2)
        spots = Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)
        pixels += (numpy.asarray(spots, numpy.float32) - 128) * 0.3
    pixels[height // 3 : height // 2, width // 4 : width // 2] *= 0.4
    pixels += random.standard_normal((height, width, 1), numpy.float32) * 18
    picture = Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))
    picture.save(path, quality=99, **options)
    return path
