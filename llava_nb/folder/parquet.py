"""The table as Parquet: made of the rows that a run wrote, a thousand at a time.

A Parquet file cannot grow: its index is at its end. So a run writes `captions.parquet.jsonl`,
and that becomes `captions.parquet` when the run ends, whole or not at all. A killed run leaves
the rows; the next one goes on from them. Needs pyarrow, which Colab has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, plain
from .forms import JsonForm
from .journal import Journal, partial
from .rows import COLUMNS, Row

GROUP = 1000  # rows that are in memory at once


def rows_path(output: Path) -> Path:
    """Return where the rows of a Parquet file stand while a run goes on."""
    return output.with_name(f"{output.name}.jsonl")


def check_pyarrow() -> Any:
    """Return pyarrow. Raises LlavaNbError if it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise LlavaNbError(
            "Parquet needs pyarrow: pip install pyarrow. Or let the table end in .csv or .jsonl."
        ) from error
    return pyarrow


def take_up(output: Path) -> None:
    """Turn an earlier Parquet file into rows again, if a run is not half done already.

    Raises LlavaNbError if the file is not one of ours, OSError if it cannot be written.
    """
    rows = rows_path(output)
    if rows.exists() or not output.exists():
        return
    beside = partial(rows)
    with open(beside, "wb") as file:
        file.writelines(map(JsonForm().encode, read_rows(output)))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(rows)


def read_rows(output: Path) -> Iterator[Row]:
    """Give the rows of a Parquet file. Raises LlavaNbError if it is not one of ours."""
    pyarrow = check_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(output) as file:
            for group in file.iter_batches(GROUP):
                for values in group.to_pylist():
                    yield Row(**values)
    except (pyarrow.ArrowException, TypeError) as error:
        raise LlavaNbError(
            f"'{plain(output)}' is no table of captions that can be continued ({plain(error)}). "
            "It is left as it is: give another output."
        ) from error


def put_in_place(journal: Journal, output: Path) -> None:
    """Write the Parquet file, whole or not at all, and delete the rows. Raises OSError."""
    pyarrow = check_pyarrow()
    kinds = {"seconds": pyarrow.float64(), "tokens": pyarrow.int64(), "bytes": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    beside = partial(output)
    with pyarrow.parquet.ParquetWriter(beside, schema) as writer:
        rows = journal.rows()
        while group := list(islice(rows, GROUP)):
            columns = {name: [getattr(row, name) for row in group] for name in COLUMNS}
            writer.write_table(pyarrow.table(columns, schema))
    with open(beside, "r+b") as file:
        os.fsync(file.fileno())
    beside.replace(output)
    journal.path.unlink()
