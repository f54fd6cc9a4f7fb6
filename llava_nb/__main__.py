"""The command line: `python -m llava_nb caption [IMAGE] [PROMPT]`, `... folder`, `... report`.

A caller of the package like any notebook: it prints what `load`, `ask`, `caption_folder` and
`check_gpu` return, and turns their errors into one sentence and exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from . import __version__
from .errors import LlavaNbError
from .prompts import DEFAULT_PROMPT

INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended: 128 and the signal's number


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="llava_nb", description="Caption pictures with LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava_nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    caption = commands.add_parser("caption", help="caption a picture")
    caption.add_argument("image", nargs="?", help="a path or URL (default: a bundled picture)")
    caption.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    caption.add_argument("--model", default="auto", help="short name, hub id or folder")
    caption.add_argument(
        "--quantization", default="4bit", help="4bit, 8bit or none (default: 4bit)"
    )
    _add_folder(commands)
    commands.add_parser("report", help="print what this machine can run, for a bug report")
    options = parser.parse_args(arguments)
    _print_any_text()
    try:
        if options.command == "folder":
            return _folder(options)
        return _report() if options.command == "report" else _caption(options)
    except LlavaNbError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _print_any_text() -> None:
    """Write what a terminal or a pipe has no letter for as its number, so that no caption is lost.

    Korean Windows pipes text as cp949, which has no accents and no emoji.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _report() -> int:
    from .gpu import check_gpu

    print(check_gpu())
    return 0


def _caption(options: argparse.Namespace) -> int:
    from .images import open_image
    from .loading.load import load
    from .pictures import example_picture

    source = options.image or str(example_picture())
    picture = open_image(source)  # before the model: a wrong path should not wait for it
    quantization = None if options.quantization.lower() == "none" else options.quantization
    llava = load(options.model, quantization=quantization)
    answer = llava.ask(picture, options.prompt)
    print(f"picture:  {source}")
    print(f"prompt:   {options.prompt}")
    print(f"caption:  {answer.text}")
    print(f"model:    {llava.name} ({llava.quantization or 'not quantised'}): {llava.reason}")
    print(f"figures:  {answer.summary}")
    print(f"memory:   {_peak_memory(answer.peak_vram_bytes)}")
    return 0


def _add_folder(commands: Any) -> None:
    folder = commands.add_parser(
        "folder",
        help="caption many pictures into a table",
        description="Caption many pictures into a table. Run again, it goes on where it ended.",
    )
    folder.add_argument(
        "pictures", nargs="+", help="a folder, a pattern, or pictures and addresses"
    )
    folder.add_argument(
        "-o", "--output", required=True, help="the table: ends in .csv, .jsonl or .parquet"
    )
    folder.add_argument("--prompt", default=DEFAULT_PROMPT)
    folder.add_argument("--model", default="auto", help="short name, hub id or folder")
    folder.add_argument("--quantization", default="4bit", help="4bit, 8bit or none")
    folder.add_argument("--batch-size", type=int, default=8, help="pictures at once (default: 8)")
    folder.add_argument("--max-new-tokens", type=int, default=256, help="default: 256")
    folder.add_argument("--recursive", action="store_true", help="and all folders below")
    folder.add_argument("--recaption", action="store_true", help="ask about all of them again")
    folder.add_argument("--text-files", action="store_true", help="a .txt beside each picture")
    folder.add_argument("--contact-sheet", action="store_true", help="an HTML page")
    folder.add_argument("--no-progress", action="store_true", help="no progress bar")
    folder.add_argument("--engine", default="local", choices=("local", "ray"))
    folder.add_argument("--workers", type=int, help="models at once with --engine ray")


def _folder(options: argparse.Namespace) -> int:
    """Caption what the options say: 0 when every picture was come to, 130 after Ctrl-C."""
    from .folder.run import caption_folder
    from .folder.sources import find_pictures
    from .folder.table import check_output
    from .loading.load import load

    settings = vars(options).copy()
    del settings["command"]
    pictures, output = settings.pop("pictures"), settings.pop("output")
    pictures = pictures[0] if len(pictures) == 1 else pictures
    model, quantization = settings.pop("model"), settings.pop("quantization")
    sheet, quiet = settings.pop("contact_sheet"), settings.pop("no_progress")
    check_output(output)  # before the model: a mistake should not wait for it
    find_pictures(pictures, recursive=options.recursive)
    llava = load(model, quantization=None if quantization.lower() == "none" else quantization)
    result = caption_folder(llava, pictures, output, progress=not quiet, **settings)
    print(result)
    if sheet and result.rows():
        print(result.contact_sheet())
    return INTERRUPTED if result.interrupted else 0


def _peak_memory(vram_bytes: int | None) -> str:
    """Return the peak in words: VRAM on a GPU, else this process's RAM."""
    from .sizes import format_gib

    if vram_bytes is not None:
        return f"peak {format_gib(vram_bytes)} of VRAM"
    try:
        import resource
    except ImportError:  # not on Windows
        return "peak unknown on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"peak {format_gib(peak)} of RAM (no GPU in use)"


if __name__ == "__main__":
    sys.exit(main())
