"""`python -m llava_nb folder PICTURES -o captions.csv`: a folder from a shell, for long jobs.

A caller of `caption_folder`: options in, text and an exit code out. Not covered: printing, and
errors in one sentence (`__main__.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXIT_CODES = {"": 0, "SIGINT": 130, "SIGTERM": 143, "stop": 1}  # 128 and the signal's number


def add_folder_command(commands: Any) -> None:
    """Add `folder` to the subparsers of the command line."""
    folder = commands.add_parser(
        "folder",
        help="caption many pictures into a table",
        description="Caption many pictures into a table. Run again, it goes on where it ended.",
    )
    folder.add_argument(
        "pictures", nargs="+", help="a folder, pictures, addresses, a CSV file, a zip or a pattern"
    )
    folder.add_argument(
        "-o", "--output", required=True, help="the table: ends in .csv, .jsonl or .parquet"
    )
    folder.add_argument("--prompt", default="Describe this picture.")
    folder.add_argument("--model", default="auto", help="short name, hub id or folder")
    folder.add_argument("--quantization", default="4bit", help="4bit, 8bit or none")
    folder.add_argument("--batch-size", type=int, default=8, help="pictures at once (default: 8)")
    folder.add_argument("--max-new-tokens", type=int, default=256, help="default: 256")
    folder.add_argument("--recursive", action="store_true", help="and all folders below")
    folder.add_argument("--column", help="the column of a CSV file that has the pictures")
    folder.add_argument("--text-files", action="store_true", help="a .txt beside each picture")
    folder.add_argument("--contact-sheet", action="store_true", help="an HTML page and a PNG")
    folder.add_argument("--no-progress", action="store_true", help="no progress bar")
    folder.add_argument("--engine", default="local", choices=("local", "ray"))
    folder.add_argument("--workers", type=int, help="models at once with --engine ray")


def folder_command(options: argparse.Namespace) -> tuple[str, int]:
    """Caption what the options say; return what to print and the exit code.

    The code is 0 when every picture has a row, also where that is an error; 130 after Ctrl-C and
    143 after SIGTERM. Raises LlavaNbError.
    """
    from ..loading import load
    from .call import caption_folder
    from .forms import form_of
    from .sources import find_pictures

    pictures = options.pictures[0] if len(options.pictures) == 1 else options.pictures
    form_of(Path(options.output))  # before the model: a mistake should not wait for it
    find_pictures(pictures, recursive=options.recursive, column=options.column)
    quantization = None if options.quantization.lower() == "none" else options.quantization
    result = caption_folder(
        load(options.model, quantization=quantization),
        pictures,
        options.output,
        prompt=options.prompt,
        batch_size=options.batch_size,
        recursive=options.recursive,
        engine=options.engine,
        column=options.column,
        text_files=options.text_files,
        max_new_tokens=options.max_new_tokens,
        progress=not options.no_progress,
        workers=options.workers,
    )
    told = str(result)
    if options.contact_sheet and result.total > result.remaining:
        told += f"\n{result.contact_sheet()}"
    return told, EXIT_CODES[result.signal]
