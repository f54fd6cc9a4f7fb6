"""The command line: `python -m llava_nb caption [IMAGE] [PROMPT]`, `... folder`, `... report`.

A caller of the package like any notebook: it prints what `load`, `ask`, `caption_folder`
(`folder/command.py`) and `check_gpu` return, and turns their errors into one sentence and
exit code 1.
"""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .errors import LlavaNbError
from .folder.command import add_folder_command, folder_command


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="llava_nb", description="Caption pictures with LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava_nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    caption = commands.add_parser("caption", help="caption a picture")
    caption.add_argument("image", nargs="?", help="a path or URL (default: a bundled picture)")
    caption.add_argument("prompt", nargs="?", default="Describe this picture.")
    caption.add_argument("--model", default="auto", help="short name, hub id or folder")
    caption.add_argument(
        "--quantization", default="4bit", help="4bit, 8bit or none (default: 4bit)"
    )
    add_folder_command(commands)
    commands.add_parser("report", help="print what this machine can run, for a bug report")
    options = parser.parse_args(arguments)
    try:
        if options.command == "folder":
            told, code = folder_command(options)
            print(told)
            return code
        return _report() if options.command == "report" else _caption(options)
    except LlavaNbError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _report() -> int:
    from .gpu import check_gpu

    print(check_gpu())
    return 0


def _caption(options: argparse.Namespace) -> int:
    from .images import open_image
    from .loading import load
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
