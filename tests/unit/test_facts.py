"""Facts about place, packages, RAM and disk, read from fake folders."""

import importlib.metadata
import shutil
import subprocess
import sys

import pytest

from llava_nb import facts

MEMINFO = "MemTotal:       13290480 kB\nMemFree:         1000000 kB\nMemAvailable:   11534336 kB\n"
KIB = 1024


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A folder that stands for any installed package."""
    monkeypatch.setattr(facts, "_package_folder", lambda name: tmp_path)
    return tmp_path


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A /proc and a /sys/fs/cgroup that tests fill: write(path, text)."""
    monkeypatch.setattr(facts, "PROC", tmp_path / "proc")
    monkeypatch.setattr(facts, "CGROUP", tmp_path / "cgroup")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(str(text))

    write("proc/meminfo", MEMINFO)
    return write


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, "local"),
        ({"COLAB_RELEASE_TAG": "release-colab_2026"}, "colab"),
        ({"COLAB_GPU": ""}, "colab"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "kaggle"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_RELEASE_TAG": "base image"}, "kaggle"),
    ],
)
def test_the_place_is_told_by_the_environment(monkeypatch, variables, place):
    for name in ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert facts.place() == place


@pytest.mark.parametrize(
    ("line", "cuda"),
    [
        ("cuda: Optional[str] = '12.8'", "12.8"),
        ('cuda = "13.0"', "13.0"),
        ("cuda: Optional[str] = None", None),
        ("cuda = None\nhip = '7.0'", None),
        ("\udcff not python", None),
    ],
)
def test_torch_cuda_is_read_from_the_text_of_version_py(package, line, cuda):
    (package / "version.py").write_text(f"debug = False\n{line}\n", errors="surrogateescape")
    assert facts.torch_cuda() == cuda


@pytest.mark.parametrize(
    ("version", "cuda"), [("2.11.0+cu128", "12.8"), ("2.11.0+cpu", None), ("2.11.0", None)]
)
def test_torch_cuda_without_version_py_is_the_tag(package, monkeypatch, version, cuda):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert facts.torch_cuda() == cuda


@pytest.mark.parametrize(
    ("cuda", "library"),
    [
        ("12.6", "libbitsandbytes_cuda126.so"),
        ("12.9", "libbitsandbytes_cuda128.so"),
        ("12.1", "libbitsandbytes_cuda126.so"),
        ("13.0", None),
        (None, "libbitsandbytes_cpu.so"),
    ],
)
def test_the_bitsandbytes_library_is_the_one_it_would_load(package, cuda, library):
    for name in ("cpu", "cuda118", "cuda126", "cuda128", "rocm71", "cuda_odd"):
        (package / f"libbitsandbytes_{name}.so").touch()
    assert facts.bitsandbytes_library(cuda) == library


def test_a_missing_package_has_neither_version_nor_library(monkeypatch):
    assert facts._package_folder("no_such_package") is None
    monkeypatch.setattr(facts, "_package_folder", lambda name: None)
    assert facts.bitsandbytes_library("12.8") is None


def test_a_package_that_breaks_its_metadata_counts_as_missing(monkeypatch):
    def broken(name):
        raise TypeError(name)

    monkeypatch.setattr(importlib.metadata, "version", broken)
    assert set(facts.versions()) == {"python", *facts.PACKAGES}
    assert facts.versions()["torch"] is None


@pytest.mark.parametrize("version", ["5.0.0", "5.0", "5.23.0", "10.1", "5.0.0.dev0"])
def test_supported_versions_pass(version):
    assert facts.unsupported("transformers", version) is None


@pytest.mark.parametrize("version", ["4.57.6", "4.99"])
def test_older_versions_are_named(version):
    assert facts.unsupported("transformers", version) == "5.0 or later is supported"


def test_ram_is_read_from_meminfo(machine):
    assert facts.ram_bytes() == (13290480 * KIB, 11534336 * KIB)


def test_a_cgroup_2_limit_counts_and_cached_files_are_free(machine):
    machine("proc/self/cgroup", "0::/box/inner\n")
    machine("cgroup/box/memory.max", 8_000_000_000)  # the limit may be on a folder around
    machine("cgroup/box/memory.current", 5_000_000_000)
    machine("cgroup/box/memory.stat", "anon 1\ninactive_file 4000000000\n")
    machine("cgroup/box/inner/memory.max", "max\n")
    assert facts.ram_bytes() == (8_000_000_000, 7_000_000_000)


def test_a_cgroup_1_limit_counts(machine):
    machine("proc/self/cgroup", "5:cpuset:/\n4:memory:/gone\n0::/\n")
    machine("cgroup/memory/memory.limit_in_bytes", 4_000_000_000)
    machine("cgroup/memory/memory.usage_in_bytes", 1_000_000_000)
    machine("cgroup/memory/memory.stat", "cache 7\ntotal_inactive_file 200000000\n")
    assert facts.ram_bytes() == (4_000_000_000, 3_200_000_000)


def test_a_cgroup_without_a_limit_changes_nothing(machine):
    machine("proc/self/cgroup", "4:memory:/\n")
    machine("cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    machine("cgroup/memory/memory.usage_in_bytes", 1)
    machine("cgroup/memory/memory.stat", "")
    assert facts.ram_bytes() == (13290480 * KIB, 11534336 * KIB)


@pytest.mark.parametrize("text", ["", "MemTotal: many kB", "garbage"])
def test_without_meminfo_the_system_is_asked(machine, monkeypatch, text):
    machine("proc/meminfo", text)
    pages = {"SC_PHYS_PAGES": 1000, "SC_AVPHYS_PAGES": 400, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(facts.os, "sysconf", pages.__getitem__, raising=False)
    assert facts.ram_bytes() == (4096000, 1638400)


def test_ram_that_nobody_knows_is_none(machine, monkeypatch):
    machine("proc/meminfo", "")
    monkeypatch.delattr(facts.os, "sysconf", raising=False)  # as on Windows
    assert facts.ram_bytes() == (None, None)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_disk_is_that_of_the_cache_or_its_nearest_parent(monkeypatch, tmp_path, variable):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "not" / "there" / "yet"))
    asked = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    assert facts.disk_free_bytes() == usage.free
    assert asked == [tmp_path]


def test_reading_facts_imports_no_heavy_package():
    heavy = "{'torch', 'transformers', 'bitsandbytes', 'ipywidgets', 'matplotlib', 'PIL'}"
    code = (
        "import sys, llava_nb.runtime; str(llava_nb.runtime.check_gpu()); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
