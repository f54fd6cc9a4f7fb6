"""What `nvidia.read` makes of every answer that nvidia-smi is known to give."""

import pytest

from llava_nb import nvidia
from llava_nb.nvidia import MIB, Gpu
from llava_nb.runtime import check_gpu

T4 = "Tesla T4, 7.5, 15360, 15095, 550.54.15"
SECOND_T4 = "Tesla T4, 7.5, 15360, 9000, 550.54.15"
TABLE = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4  |"


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """Put an nvidia-smi on PATH that prints the given text, or runs the given shell lines."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(query="", table=TABLE, shell=""):
        script = tmp_path / "nvidia-smi"
        choice = f"case \"$*\" in *query*) echo '{query}';; *) echo '{table}';; esac"
        script.write_text(f"#!/bin/sh\n{shell or choice}\n")
        script.chmod(0o755)

    return write


def test_a_t4_is_read(answers):
    answers(T4)
    gpu = Gpu(0, "Tesla T4", (7, 5), 15360 * MIB, 15095 * MIB)
    assert nvidia.read() == nvidia.Reading((gpu,), "550.54.15", "12.4", None)


def test_an_a100_and_a_name_with_a_comma_are_read(answers):
    answers("NVIDIA A100-SXM4-40GB, PCIe, 8.0, 40960, 40326, 580.82.07")
    gpu = nvidia.read().gpus[0]
    assert (gpu.name, gpu.capability) == ("NVIDIA A100-SXM4-40GB, PCIe", (8, 0))


def test_a_table_without_a_cuda_version_leaves_it_unknown(answers):
    answers(T4, table="Driver Version: 550.54.15")
    assert nvidia.read().driver_cuda is None


@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]", "[Insufficient Permissions]"])
def test_what_the_driver_cannot_tell_is_unknown(answers, nothing):
    answers(f"NVIDIA GB10, 12.1, {nothing}, {nothing}, {nothing}")
    reading = nvidia.read()
    assert reading.gpus == (Gpu(0, "NVIDIA GB10", (12, 1), None, None),)
    assert reading.driver is None


def test_a_warning_among_the_lines_is_no_gpu(answers):
    answers(f"WARNING: infoROM is corrupted at gpu 0000:00:04.0\n{T4}")
    assert [(gpu.index, gpu.name) for gpu in nvidia.read().gpus] == [(0, "Tesla T4")]


@pytest.mark.parametrize(
    "text",
    ["No devices were found", "a, b, c, d, e", "a, 1x, 2, , 4", "<html>", ", 7.5, 1, 1, 5", ",,,,"],
)
def test_garbage_is_quoted_as_the_problem(answers, text):
    answers(text)
    reading = nvidia.read()
    assert reading.gpus == ()
    assert reading.problem == f'nvidia-smi says "{text}"'


def test_bytes_that_are_no_text_and_no_answer_at_all_do_not_raise(answers):
    answers(shell=r"printf '\377\376\000'")
    assert "nvidia-smi says" in nvidia.read().problem
    answers(shell="exit 0")
    assert nvidia.read().problem == 'nvidia-smi says "nothing"'


def test_a_driver_error_is_the_problem_without_the_home_folder(answers, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    answers(shell="echo /home/somebody/lib: Driver/library version mismatch; exit 18")
    assert nvidia.read().problem == 'nvidia-smi says "~/lib: Driver/library version mismatch"'


def test_a_missing_nvidia_smi_is_the_problem(answers):
    assert nvidia.read().problem == nvidia.NOT_FOUND


def test_an_nvidia_smi_that_does_not_start_is_the_problem(answers, tmp_path):
    answers()
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF broken")
    assert nvidia.read().problem == "nvidia-smi does not start: Exec format error"


@pytest.mark.parametrize("sleep", ["exec /bin/sleep 20", "/bin/sleep 20"])
def test_a_hanging_nvidia_smi_is_given_up(answers, monkeypatch, sleep):
    monkeypatch.setattr(nvidia, "TIMEOUT_SECONDS", 0.2)
    answers(shell=sleep)
    assert nvidia.read().problem == "nvidia-smi gave no answer in 0.2 s"


@pytest.mark.parametrize(
    ("choice", "free_mib"),
    [
        (None, [15095, 9000]),
        ("0,1", [15095, 9000]),
        ("1", [9000]),
        ("1,0", [9000, 15095]),
        ("0,7,1", [15095]),
        ("0,-1,1", [15095]),
        ("GPU-3f2a9c", [15095, 9000]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_chooses_as_cuda_does(answers, monkeypatch, choice, free_mib):
    if choice is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    answers(f"{T4}\n{SECOND_T4}")
    gpus = nvidia.read().gpus
    assert [gpu.free_bytes // MIB for gpu in gpus] == free_mib
    assert [gpu.index for gpu in gpus] == list(range(len(free_mib)))


def test_hidden_gpus_are_the_problem(answers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answers(T4)
    assert nvidia.read().problem == "CUDA_VISIBLE_DEVICES hides every GPU"


def test_check_gpu_reads_nvidia_smi(answers):
    answers(T4)
    report = check_gpu()
    assert (report.gpu_name, report.compute_dtype) == ("Tesla T4", "float16")
    assert report.vram_free_bytes == 15095 * MIB
