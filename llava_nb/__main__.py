"""The command line: `python -m llava_nb caption [IMAGE] [PROMPT]`, `... folder`, `... report`.

A caller of the package like any notebook: it prints what the public functions return, and turns
their errors into one sentence and exit code 1.
"""

from __future__ import annotations

import argparse
import inspect
import sys

import llava_nb

from .catalog import about_declining
from .prompts import DEFAULT_PROMPT

EMBEDDED = "tiny"
INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended: 128 and the signal's number


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # What a terminal or a pipe has no letter for becomes its number, so that no caption is
        # lost. Korean Windows pipes text as cp949, which has no accents and no emoji.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return options.run(options)
    except llava_nb.LlavaNbError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    """The options; those of `folder` have the names that caption_folder() gives them."""
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="auto", help="short name, hub id or folder")
    model.add_argument(
        "--quantization",
        default="4bit",
        type=lambda bits: None if bits.lower() == "none" else bits,
        help="4bit, 8bit or none (default: 4bit)",
    )
    parser = argparse.ArgumentParser(prog="llava_nb", description="Caption pictures with LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava_nb {llava_nb.__version__}")
    commands = parser.add_subparsers(required=True)

    caption = commands.add_parser("caption", parents=[model], help="caption a picture")
    caption.add_argument("image", nargs="?", help="a path or URL (default: a bundled picture)")
    caption.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    caption.set_defaults(run=_caption)

    about = "caption many pictures into a table"
    again = f"{about.capitalize()}. Run again, it goes on where it ended."
    folder = commands.add_parser("folder", parents=[model], help=about, description=again)
    add = folder.add_argument
    add("pictures", nargs="+", help="a folder, a pattern, or pictures and addresses")
    add("-o", "--output", required=True, help="the table, such as captions.csv")
    add("--prompt", default=DEFAULT_PROMPT)
    # Those that are not given are left to caption_folder(), with its defaults.
    add("--batch-size", type=int, default=argparse.SUPPRESS, help="pictures at once")
    add("--max-new-tokens", type=int, default=argparse.SUPPRESS, help="the most of a caption")
    add("--recursive", action="store_true", help="and all folders below")
    add("--recaption", action="store_true", help="ask about all of them again")
    add("--text-files", action="store_true", help="a .txt beside each picture")
    add("--contact-sheet", action="store_true", help="an HTML page")
    add("--no-progress", action="store_false", dest="progress", help="no progress bar")
    add("--engine", default="local", choices=("local", "ray"))
    add("--workers", type=int, help="models at once with --engine ray")
    folder.set_defaults(run=_folder)

    report = commands.add_parser("report", help="print what this machine can run, for a bug report")
    report.set_defaults(run=_report)
    return parser


def _report(options: argparse.Namespace) -> int:
    print(llava_nb.check_gpu())
    return 0


def _load(options: argparse.Namespace, *, own_picture: bool) -> llava_nb.Llava:
    """Load what the options say.

    The embedded model knows drawn shapes alone. So it answers unasked only about the bundled
    picture, and that at once: about a picture of somebody's own it would say what is not true.
    """
    if options.model == "auto" and not own_picture:
        no_gpu = llava_nb.check_gpu().no_cuda_reason
        if no_gpu:
            llava = llava_nb.load(EMBEDDED, quantization=options.quantization)
            llava.reason = f"it knows the bundled pictures, and {no_gpu}"
            return llava
    llava = llava_nb.load(options.model, quantization=options.quantization)
    if llava.name == EMBEDDED and options.model != EMBEDDED:
        raise llava_nb.ModelError(
            f"No model that knows photographs can be had here: {llava.reason}. The embedded model "
            f"knows drawn shapes alone; to ask it all the same: --model {EMBEDDED}"
        )
    return llava


def _caption(options: argparse.Namespace) -> int:
    source = options.image or str(llava_nb.example_picture())
    picture = llava_nb.open_image(source)  # before the model: a wrong path should not wait for it
    llava = _load(options, own_picture=bool(options.image))
    print(f"model:    {llava.name} ({llava.quantization or 'not quantised'}): {llava.reason}")
    print(f"picture:  {source}")
    print(f"prompt:   {options.prompt}")
    sys.stdout.flush()  # on a CPU the picture is read for half a minute
    from .inference.answer import WaitingLine

    chat = llava.chat(picture)
    chat.waiting = WaitingLine()
    with llava_nb.track_vram("answer") as track:
        before = "caption:  "
        for piece in chat.stream(options.prompt):
            print(before, piece, sep="", end="", flush=True)
            before = ""
    answer = chat.turns[-1].answer
    if why := about_declining(llava.name, answer.text):
        print(f"\nnote:     {why}", end="")
    print(f"\nfigures:  {answer.summary}")
    print(f"memory:   {track}")
    return 0


def _folder(options: argparse.Namespace) -> int:
    """Caption what the options say: 0 when every picture was come to, 130 after Ctrl-C."""
    from .folder.sources import find_pictures
    from .folder.table import check_output

    pictures = options.pictures[0] if len(options.pictures) == 1 else options.pictures
    check_output(options.output)  # before the model: a mistake should not wait for it
    find_pictures(pictures, recursive=options.recursive)
    names = inspect.signature(llava_nb.caption_folder).parameters
    settings = {name: value for name, value in vars(options).items() if name in names}
    llava = _load(options, own_picture=True)
    result = llava_nb.caption_folder(llava, pictures, **settings)
    print(result)
    rows = result.rows() if result.output.exists() else []
    notes = (about_declining(llava.name, row.caption) for row in rows)
    if why := next(filter(None, notes), ""):
        print(why)
    if options.contact_sheet and result.rows():
        print(result.contact_sheet())
    return INTERRUPTED if result.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
