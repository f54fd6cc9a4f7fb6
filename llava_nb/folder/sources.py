"""The pictures of a run: which a person means, reading them, and having them answered.

A batch at a time on this machine, or by several models through Ray.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import hashlib
import logging
import math
import os
import threading
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

import llava_nb

from ..errors import LlavaNbError, ModelError, PromptError, plain, storable
from ..images import Content, data_uri, decode, find_path, is_address, no_such_file, read
from .table import Row

ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .bmp .dib .tif .tiff .avif .heic .heif "
    ".jp2 .j2k .jxl .ppm .pgm .pbm .pnm .tga .qoi .dds".split()
)
USE_A_LIST = {
    "a table": (".csv .tsv .txt .json .jsonl .parquet .xlsx", "pandas.read_csv('t.csv')['photo']"),
    "an archive": (".zip .tar .gz .tgz .7z .rar", "shutil.unpack_archive('a.zip', 'photos')"),
}
Listings = dict[str, dict[str, str]]  # of folders looked through: NFC name -> path on the disk


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture: what its row is called, and its path or, if `is_address`, its address."""

    name: str
    place: str
    is_address: bool = False

    def facts(self) -> dict[str, Any]:
        """Return what its row says of the file unread: no size if it cannot be looked at.

        Of an address nothing is known: asking is nearly a download.
        """
        facts: dict[str, Any] = {"file": self.name, "bytes": None, "modified": ""}
        with contextlib.suppress(OSError, ValueError):
            if not self.is_address:
                status = os.stat(self.place)
                # numpy's, as it neither rounds through a float nor ends at the year 9999
                moment = numpy.datetime64(status.st_mtime_ns // 1000, "us")
                facts |= {"bytes": status.st_size, "modified": f"{moment}Z"}
        return facts

    def absolute(self) -> Entry:
        """Return the entry as other processes find it, whatever folder they work in."""
        return self if self.is_address else replace(self, place=os.path.abspath(self.place))

    def content(self) -> Content:
        """Return the bytes of the picture. Raises ImageError."""
        # A Path, so that a file called "about:me.png" is not taken for an address of a browser.
        return read(self.place if self.is_address else Path(self.place))

    def thumbnail(self, side: int) -> str:
        """Return the picture small, as a data URI; "" if it cannot be read."""
        _, picture = self.read()
        return "" if isinstance(picture, Exception) else data_uri(picture, side)

    def read(self) -> tuple[dict[str, Any], Image.Image | Exception]:
        """Return what its row says of the file, and the picture or the error in place of it."""
        facts = self.facts()  # before reading: a change meanwhile is seen the next time
        try:
            content = self.content()
            data = content.data
            facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            return facts, decode(data, content.name, content_type=content.content_type)
        except Exception as error:  # one picture, whatever it holds, does not end the run
            # Its frames hold on to the bytes.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return facts, error


def find_pictures(source: Any, *, recursive: bool = False) -> list[Entry]:
    """Return what is to be captioned, each name once; see `caption_folder`. Raises LlavaNbError."""
    is_table = hasattr(source, "columns")
    other = isinstance(source, bytes | bytearray | memoryview | Mapping) or hasattr(source, "read")
    if isinstance(source, str | os.PathLike):
        entries = _of_text(source, recursive)
    elif isinstance(source, Iterable) and not (is_table or other):
        listings: Listings = {}
        items = sorted(source, key=str) if isinstance(source, set | frozenset) else source
        entries = [_of_item(item, number, listings) for number, item in enumerate(items, 1)]
    else:
        hint = " Of a table give one column: table['file']." if is_table else ""
        raise LlavaNbError(
            f"caption_folder cannot use a value of type {type(source).__name__}: give a folder, a "
            f"pattern such as 'photos/*.jpg', or a list of paths and addresses.{hint}"
        )
    if not entries:
        raise LlavaNbError("The list of pictures is empty: give at least one path or address.")
    return list({entry.name: entry for entry in entries}.values())


def _of_item(item: Any, number: int, listings: Listings) -> Entry:
    if is_address(item):
        return Entry(storable(item.strip()), item.strip(), is_address=True)
    if not isinstance(item, str | os.PathLike):
        raise LlavaNbError(
            f"Number {number} of the list is of type {type(item).__name__}; give paths and "
            "addresses. Pictures in memory go to llava.ask_batch(pictures, prompt)."
        )
    text = os.fsdecode(item)
    return Entry(storable(text), _on_disk(os.path.expanduser(text), listings))


def _of_text(source: str | os.PathLike, recursive: bool) -> list[Entry]:
    if is_address(source):
        return [_of_item(source, 1, {})]
    text = os.fsdecode(source)
    if not text.strip():
        raise LlavaNbError("The folder is empty text: give a folder, a pattern or a list.")
    path = Path(_on_disk(os.path.expanduser(text), {}))
    if os.path.isdir(path):
        return _of_folder(path, recursive)
    try:
        os.lstat(path)
    except OSError as error:
        if glob.has_magic(text):
            return _of_pattern(text, str(path))
        raise LlavaNbError(no_such_file(path, text)) from error
    except ValueError as error:  # half a character, or NUL
        raise LlavaNbError(f"'{plain(text)}' can be no path ({error}): give another.") from error
    for what, (endings, repair) in USE_A_LIST.items():
        if path.suffix.lower() in endings.split():
            raise LlavaNbError(
                f"'{plain(text)}' is {what}, not a picture. Give a folder or a list, such as what "
                f"{repair} gives."
            )
    return [Entry(storable(path.name), str(path))]


def _of_folder(folder: Path, recursive: bool) -> list[Entry]:
    """The pictures of a folder; those below are entered once, however many links lead there."""
    places: list[str] = []
    below: list[str] = []
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        if error.filename not in (None, str(folder)):
            places.append(error.filename)  # reading it says why, in its row
            return
        raise LlavaNbError(
            f"The folder '{plain(folder)}' cannot be read ({error.strerror or error}). In Colab "
            "mount Drive first; elsewhere check that you may read it."
        ) from error

    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        places += (os.path.join(place, name) for name in files if is_picture_name(name))
        folders[:] = (name for name in folders if not name.startswith("."))
        if not recursive:
            below += folders
            break
    if not places:
        hint = f" It has folders ({plain(below[0])}): add recursive=True." if below else ""
        raise LlavaNbError(
            f"There are no pictures in '{plain(folder)}': no file ends in .jpg, .png, .webp or "
            f"another of {len(ENDINGS)} endings.{hint}"
        )
    start = len(os.path.join(folder, ""))
    names = ((place[start:].replace(os.sep, "/"), place) for place in places)
    return [Entry(storable(name), place) for name, place in sorted(names)]


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture; names with a dot in front are the system's."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS


def _of_pattern(text: str, pattern: str) -> list[Entry]:
    """The files that match; what is there under the very name that is written counts first."""
    start, parts = "", Path(pattern).parts
    while parts and os.path.isdir(os.path.join(start, parts[0])):
        start, parts = os.path.join(start, parts[0]), parts[1:]
    readings = (  # brackets of a folder as they stand; as a set of letters; all as they stand
        os.path.join(glob.escape(start), *parts),
        pattern,
        pattern.replace("[", "[[]"),
    )
    for reading in readings:
        found = glob.iglob(reading, recursive=True)
        places = sorted(place for place in found if not os.path.isdir(place))
        # As in a folder; but whoever asks for "*.dat" means files of that ending.
        places = [place for place in places if is_picture_name(os.path.basename(place))] or places
        if places:
            return [Entry(storable(place), place) for place in places]
    brackets = " Brackets stand for one of the letters in them." if "[" in text else ""
    raise LlavaNbError(
        f"Nothing matches '{plain(text)}'. '*' stands for any name and '**' for any folders: "
        f"'photos/**/*.jpg'.{brackets}"
    )


def _on_disk(path: str, listings: Listings) -> str:
    """Return a path as the disk spells it, as `find_path` does, but listing each folder once."""
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if folder not in listings:
        on_disk = find_path(folder)
        try:
            names = os.listdir(on_disk)
        except (OSError, ValueError):
            names = []
        listings[folder] = {
            unicodedata.normalize("NFC", each): os.path.join(on_disk, each) for each in names
        }
    return listings[folder].get(unicodedata.normalize("NFC", name), path)


def text_files_of(entries: Iterable[Entry]) -> dict[str, Path]:
    """Return `<name>.txt` beside each file, which is what tools for training on pictures read.

    Raises PromptError if there is no file, or two would share a text.
    """
    texts, owners = {}, {}
    for entry in entries:
        if entry.is_address:
            continue
        place = os.path.abspath(entry.place)
        text = texts[entry.name] = Path(os.path.splitext(place)[0] + ".txt")
        other, owner = owners.setdefault(text, (entry.name, place))
        if owner != place:
            raise PromptError(
                f"'{plain(other)}' and '{plain(entry.name)}' would both have their text in "
                f"'{plain(text.name)}'. Rename one of them, or leave out text_files=True: the "
                "table has a row for each."
            )
    if not texts:
        raise PromptError(
            "text_files=True writes a text beside each picture, and these are all at addresses. "
            "Download them and give the folder, or leave it out."
        )
    return texts


# --- answering ---

BATCH_PIXELS = 100_000_000  # a batch of large pictures ends there, at 0.3 GB in RGB
WAIT_SECONDS = 0.2  # how soon a stop is seen while a download, or a worker, is waited for
RETRIES = 1  # how often the batch of a worker of Ray that died is done again
Asked = dict[str, Any]  # the arguments of `Llava.ask_batch`: prompts, batch_size and others
Rows = Generator[list[Row], None, None]


def rows_of(llava: Any, batch: Sequence[tuple[dict[str, Any], Any]], asked: Asked) -> list[Row]:
    """Return the rows of pictures as `Entry.read` gives them, readable or not."""
    pictures = [picture for _, picture in batch if not isinstance(picture, Exception)]
    answers = iter(_answers(llava, pictures, asked) if pictures else [])
    return [
        Row.of(picture if isinstance(picture, Exception) else next(answers), **facts)
        for facts, picture in batch
    ]


def _answers(llava: Any, pictures: list[Any], asked: Asked) -> list[Any]:
    """Answer all at once; if that fails as a whole, one by one, an error where one fails alone."""
    try:
        return llava.ask_batch(pictures, **asked)
    except LlavaNbError:  # a closed model, settings that mean nothing
        raise
    except Exception as error:  # a picture that the processor or the model cannot take
        if len(pictures) == 1:
            return [error]
        answers = [_answers(llava, [picture], asked)[0] for picture in pictures]
        if all(isinstance(answer, Exception) for answer in answers):
            raise  # then it is not the pictures
        return answers


def rows_here(
    llava: Any, entries: Sequence[Entry], asked: Asked, is_over: Callable[[], bool]
) -> Rows:
    """Give the rows of one batch after the other, in the order of the entries, until `is_over`.

    A thread reads the pictures of the next batch meanwhile.
    """
    waiting, ended = iter(entries), threading.Event()

    def read_batch() -> list[Any]:
        batch, pixels = [], 0
        while len(batch) < asked["batch_size"] and pixels < BATCH_PIXELS:
            entry = next(waiting, None)
            if entry is None or ended.is_set():
                break
            batch.append(entry.read())
            pixels += math.prod(getattr(batch[-1][1], "size", (0,)))  # an error has none
        return batch

    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="llava_nb-reader")
    try:
        coming = pool.submit(read_batch)
        while not is_over():
            done, _ = concurrent.futures.wait([coming], timeout=WAIT_SECONDS)
            if not done:
                continue
            batch = coming.result()
            if not batch:
                return
            coming = pool.submit(read_batch)
            yield rows_of(llava, batch, asked)
            del batch  # so that two batches are in memory, not three
    finally:
        ended.set()
        pool.shutdown(wait=False)  # a download may take long, and is not waited for


class Worker:
    """An actor of Ray: one model, which lives as long as the actor does."""

    def __init__(self, asked: Asked, model: dict[str, Any]) -> None:
        self._asked, self._model, self._llava = asked, model, None

    def rows(self, batch: Sequence[Entry]) -> list[Row]:
        """Return the rows of some pictures."""
        if self._llava is None:  # not in __init__, whose errors Ray takes for a death
            self._llava = llava_nb.load(**self._model)
        return rows_of(self._llava, [entry.read() for entry in batch], self._asked)


def rows_by_ray(
    llava: Any,
    entries: Sequence[Entry],
    asked: Asked,
    is_over: Callable[[], bool],
    *,
    workers: int | None,
) -> Rows:
    """Give the rows of one batch after the other, as the workers finish them, until `is_over`.

    Each worker loads the model of `llava` by its name. Ray replaces one that dies, which does its
    batch once more. On a cluster the pictures have to be at the same path everywhere. Raises
    LlavaNbError if Ray is missing, ModelError if a worker cannot work.
    """
    try:
        import ray
    except ImportError as error:
        raise LlavaNbError(
            'engine="ray" needs Ray: pip install ray. One machine with one GPU needs none of it: '
            'engine="local".'
        ) from error
    if not ray.is_initialized():  # the cluster of RAY_ADDRESS, or one here
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    has = ray.cluster_resources()
    kind = "GPU" if has.get("GPU", 0) >= 1 else "CPU"
    room = int(has.get(kind, 0))
    if not 1 <= (workers or 1) <= room:
        raise LlavaNbError(
            f"workers is {workers}, and Ray has room for {room}, one a {kind}. What Ray has is set "
            "when it starts, such as by ray.init(num_cpus=2)."
        )
    model = {"model": llava.source or llava.name, "quantization": llava.quantization}
    options = {f"num_{kind.lower()}s": 1, "max_restarts": -1, "max_task_retries": RETRIES}
    make = ray.remote(**options)(Worker)
    idle, running = [make.remote(asked, model) for _ in range(workers or room)], {}
    size, waiting = asked["batch_size"], [entry.absolute() for entry in entries]
    while (waiting or running) and not is_over():
        while waiting and idle:
            batch, waiting, worker = waiting[:size], waiting[size:], idle.pop()
            running[worker.rows.remote(batch)] = worker, batch
        done, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
        for future in done:
            worker, batch = running.pop(future)
            idle.append(worker)
            try:
                yield ray.get(future)
            except ray.exceptions.RayTaskError as error:
                told = f"{type(error.cause).__name__}: {error.cause}"
                raise ModelError(f"A worker of Ray cannot go on. {told}") from error
            except ray.exceptions.RayError:
                died = LlavaNbError(
                    f"The worker died on the batch of this picture, {RETRIES + 1} times. Run "
                    "again with batch_size=1 to find the picture; most likely the worker ran "
                    "out of memory."
                )
                yield [Row.of(died, **entry.facts()) for entry in batch]
