"""The file of rows: whole after every kill, whatever names and captions hold."""

import csv
import errno
import io

import pytest
from folder_fakes import FakeLlava, album, paint
from hypothesis import given
from hypothesis import strategies as st

from llava_nb.errors import LlavaNbError
from llava_nb.files import FORMULA_STARTS
from llava_nb.folder import caption_folder
from llava_nb.folder.forms import CsvForm, JsonForm
from llava_nb.folder.journal import Journal
from llava_nb.folder.rows import Row, printable

FORMS = {".csv": CsvForm(), ".jsonl": JsonForm()}
AWKWARD = [
    "a,b.png",
    'a"b.png',
    "a\nb.png",
    "a\r\nb.png",
    "한글.png",
    "😀.png",
    "=1+1.png",
    "'=1+1.png",
    "''@x.png",
    "-x.png",
    "'quoted'.png",
    " =x.png",
    "",
]


def row(name="a.png", caption="a cat"):
    return Row(name, caption, "What?", "tiny", 0.5, 3, "eos", "", "00ff", 12, "2026-01-01")


def run(folder, output, llava=None, **options):
    return caption_folder(llava or FakeLlava(), folder, output, progress=False, **options)


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("text", AWKWARD)
def test_what_is_read_is_what_was_written(form, text):
    assert form.decode(form.encode(row(text, text))) == row(text, text)


@given(st.text(), st.text())
def test_any_text_comes_back_and_none_is_a_formula(name, caption):
    given_row = row(printable(name), printable(caption))
    for form in FORMS.values():
        record = form.encode(given_row)
        assert form.decode(record) == given_row
        assert list(form.records(io.BytesIO(record + record))) == [record, record]
    cells = next(csv.reader(io.StringIO(CsvForm().encode(given_row).decode(), newline="")))
    assert not any(cell.lstrip(" ").startswith(FORMULA_STARTS) for cell in cells)


@pytest.mark.parametrize("ending", FORMS)
def test_cut_at_any_byte_the_table_is_taken_up_again(tmp_path, ending):
    folder = album(tmp_path / "p", 3)
    paint(folder / 'a,"b\n=.png', "red")
    output = tmp_path / f"captions{ending}"
    whole = run(folder, output).rows()
    content = output.read_bytes()
    cuts = [*range(0, len(content), 7), *range(len(content) - 150, len(content))]
    for end in cuts:
        output.write_bytes(content[:end])
        result = run(folder, output, batch_size=1)
        assert result.rows() == whole and output.read_bytes() == content, f"cut at {end}"
    assert len(cuts) > 200, f"{len(cuts)} cuts were tried"


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize(
    "content",
    [b"name,age\nAnn,3\n", b'{"age": 3}\n', b"just text", b'{"file": "a"}\n', b"\x89PNG\r\n\x1a\n"],
)
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path, ending, content):
    output = tmp_path / f"captions{ending}"
    output.write_bytes(content)
    with pytest.raises(LlavaNbError, match="no table of captions.*left as it is: give another"):
        run(album(tmp_path / "p", 1), output)
    assert output.read_bytes() == content


def test_a_parquet_file_of_somebody_else_is_left_as_it_is(tmp_path):
    pytest.importorskip("pyarrow")
    output = tmp_path / "captions.parquet"
    output.write_bytes(b"not parquet")
    with pytest.raises(LlavaNbError, match="no table of captions.*give another output"):
        run(album(tmp_path / "p", 1), output)
    assert output.read_bytes() == b"not parquet"


def test_a_damaged_row_in_the_middle_is_named(tmp_path):
    folder, output = album(tmp_path / "p", 3), tmp_path / "captions.jsonl"
    run(folder, output)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(lines[0] + b"{}\n" + lines[2])
    with pytest.raises(LlavaNbError, match="line 2 is not as it was written"):
        run(folder, output)


class FullDisk:
    """A disk that has room for some more bytes."""

    def __init__(self, monkeypatch, room, code=errno.ENOSPC):
        self.room, self.code, self._real = room, code, Journal._write
        monkeypatch.setattr(Journal, "_write", lambda journal, data: self.write(journal, data))

    def write(self, journal, data):
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        self._real(journal, taken)
        if len(taken) < len(data):
            raise OSError(self.code, "No space left on device")


@pytest.mark.parametrize("ending", FORMS)
def test_a_full_disk_says_what_was_saved_and_the_next_call_goes_on(tmp_path, ending, monkeypatch):
    folder, output = album(tmp_path / "p", 10), tmp_path / f"captions{ending}"
    with monkeypatch.context() as patched:
        FullDisk(patched, room=1200)
        with pytest.raises(
            LlavaNbError, match="The disk is full: .* 10 pictures are saved"
        ) as full:
            run(folder, output, batch_size=2)
    saved = int(str(full.value).split(": ")[1].split()[0])
    assert 0 < saved < 10 and f"{saved} of 10 pictures are saved in" in str(full.value)
    assert f"{10 - saved} are still to be done. Make room and make the same call" in str(full.value)
    assert b"\n" == output.read_bytes()[-1:], "nothing half-written is left"
    again = run(folder, output, batch_size=2)
    assert again.kept == saved and len(again.rows()) == 10


def test_another_fault_of_the_disk(tmp_path, monkeypatch):
    FullDisk(monkeypatch, room=1200, code=errno.EIO)
    with pytest.raises(LlavaNbError, match=r"Writing failed \(No space.*Put that right"):
        run(album(tmp_path / "p", 10), tmp_path / "captions.csv", batch_size=2)


def test_a_place_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LlavaNbError, match="(cannot be written|No lock can be made)"):
        run(album(tmp_path / "p", 1), tmp_path / "file" / "captions.csv")


def test_rows_are_on_the_disk_before_the_next_batch(tmp_path, monkeypatch):
    folder, output, seen = album(tmp_path / "p", 6), tmp_path / "captions.jsonl", []
    llava = FakeLlava(before=lambda: seen.append(output.read_bytes().count(b"\n")))
    synced = []
    monkeypatch.setattr("llava_nb.folder.journal.os.fsync", lambda number: synced.append(number))
    run(folder, output, llava, batch_size=2)
    assert seen == [0, 2, 4] and len(synced) >= 3
