"""`check_gpu` on machines that tests describe: facts, verdicts, advice, text, HTML."""

import pytest

from llava_nb import facts, nvidia, runtime
from llava_nb.nvidia import Gpu, Reading
from llava_nb.sizes import GIB, format_gib

MIB = 2**20
T4 = Gpu(0, "Tesla T4", (7, 5), 15360 * MIB, 15095 * MIB)
A100 = Gpu(0, "NVIDIA A100-SXM4-40GB", (8, 0), 40960 * MIB, 40326 * MIB)
NO_GPU = Reading(problem=nvidia.NOT_FOUND)
COLAB_VERSIONS = {
    "python": "3.13.15",
    "torch": "2.11.0+cu128",
    "transformers": "5.15.0",
    "accelerate": "1.14.0",
    "bitsandbytes": "0.50.2",
    "ipywidgets": "7.7.1",
}


@pytest.fixture
def check(monkeypatch):
    """check(gpus or Reading, place=..., versions=..., ...) -> the report of such a machine."""

    def run(found=(), *, place="colab", torch_cuda="12.8", ask_torch=False, **others):
        gpus = (found,) if isinstance(found, Gpu) else found
        reading = found if isinstance(found, Reading) else Reading(gpus, "550.54.15", "12.4")
        versions = COLAB_VERSIONS | others.get("versions", {})
        library = others.get("library", "libbitsandbytes_cuda128.so")
        monkeypatch.setattr(nvidia, "read", lambda: reading)
        monkeypatch.setattr(facts, "place", lambda: place)
        monkeypatch.setattr(facts, "torch_cuda", lambda: torch_cuda)
        monkeypatch.setattr(facts, "versions", lambda: versions)
        monkeypatch.setattr(facts, "bitsandbytes_library", lambda cuda: library)
        monkeypatch.setattr(facts, "ram_bytes", lambda: (13 * GIB, 11 * GIB))
        return runtime.check_gpu(ask_torch=ask_torch)

    return run


def verdict(report, model):
    return next(each for each in report.verdicts if each.model == model)


@pytest.mark.parametrize(
    ("capability", "name", "reason"),
    [
        ((7, 5), "float16", "7.5 has no bfloat16 units; torch.cuda.is_bf16_supported"),
        ((7, 0), "float16", "7.0 has no bfloat16"),
        ((8, 0), "bfloat16", "8.0 has bfloat16"),
        ((12, 1), "bfloat16", "12.1 has bfloat16"),
        (None, "float32", "without a CUDA GPU"),
    ],
)
def test_the_compute_dtype_follows_the_capability(capability, name, reason):
    chosen, why = runtime.compute_dtype_name(capability)
    assert chosen == name
    assert reason in why


def test_a_t4_in_colab_runs_13b_and_needs_no_repair(check):
    report = check(T4)
    assert report.compute_dtype == "float16"
    assert [each.fits for each in report.verdicts] == [True, True, True]
    assert report.advice == ()
    assert "FAIL" not in str(report)


def test_an_a100_computes_in_bfloat16(check):
    report = check(A100)
    assert (report.capability, report.compute_dtype) == ((8, 0), "bfloat16")


def test_a_verdict_says_by_how_much_a_model_fits(check):
    found = verdict(check(T4), "llava-1.5-13b")
    assert (found.quantization, found.free_bytes) == ("4bit", T4.free_bytes)
    spare = format_gib(T4.free_bytes - found.needed_bytes)
    assert found.why.startswith(f"fits with {spare} to spare"), found.why


def test_a_verdict_says_how_much_is_missing(check):
    found = verdict(check(Gpu(0, "RTX 3070", (8, 6), 8 * GIB, 8 * GIB)), "llava-1.5-13b")
    assert not found.fits
    short = format_gib(found.needed_bytes - 8 * GIB)
    assert found.why.startswith(f"does not fit: {short} short"), found.why


def test_unknown_vram_fits_nothing_and_says_so(check):
    report = check(Gpu(0, "NVIDIA GB10", None, None, None))
    assert not any(each.fits for each in report.verdicts)
    assert "cannot tell" in verdict(report, "llava-1.5-7b").why
    assert report.compute_dtype == "float16"


def test_without_a_gpu_only_the_embedded_model_fits(check):
    report = check(NO_GPU)
    assert [each.model for each in report.verdicts if each.fits] == ["tiny"]
    assert report.compute_dtype == "float32"


@pytest.mark.parametrize("free", [(5000, 15095), (15095, 5000), (15095, 15095)])
def test_of_two_gpus_the_one_with_more_free_vram_is_used(check, free):
    gpus = tuple(Gpu(i, "Tesla T4", (7, 5), 15360 * MIB, mib * MIB) for i, mib in enumerate(free))
    report = check(gpus)
    assert report.gpus == gpus
    assert report.gpu.index == free.index(max(free))
    assert str(report).count("the one to use") == 1


@pytest.mark.parametrize(
    ("place", "menu"),
    [
        ("colab", "Runtime > Change runtime type > T4 GPU > Save, then Runtime > Run all"),
        ("kaggle", "Settings > Accelerator > GPU T4 x2"),
        ("local", "https://www.nvidia.com/drivers"),
    ],
)
def test_without_a_gpu_the_advice_is_the_way_to_one(check, place, menu):
    report = check(NO_GPU, place=place)
    assert menu in report.advice[0]
    assert menu in str(report)


T4_TAKEN = Gpu(0, "Tesla T4", (7, 5), 15 * GIB, 2 * GIB)
HIDDEN = Reading(problem="CUDA_VISIBLE_DEVICES hides every GPU")
HANGING = Reading(problem="nvidia-smi gave no answer in 10 s")


@pytest.mark.parametrize(
    ("found", "machine", "advice"),
    [
        (T4, {"torch_cuda": None}, "CPU build. Run: pip install --force-reinstall torch"),
        (T4, {"torch_cuda": "13.0"}, "driver 550.54.15 goes up to CUDA 12.4. Update the driver"),
        (T4, {"versions": {"torch": None}}, "torch is not installed. Run: bash colab_setup.sh"),
        (T4, {"versions": {"bitsandbytes": None}, "library": None}, "pip install bitsandbytes"),
        (
            T4,
            {"library": None},
            "no library for a torch built for CUDA 12.8. Run: pip install --up",
        ),
        (T4, {"versions": {"transformers": "4.57.6"}}, "Runtime version > Latest"),
        (
            T4,
            {"versions": {"transformers": "4.57.6"}, "place": "local"},
            'pip install "transformers>=5.0"',
        ),
        (T4, {"versions": {"bitsandbytes": "0.45.0"}}, 'pip install "bitsandbytes>=0.46.1"'),
        (T4_TAKEN, {}, "13.00 GiB of 15.00 GiB of VRAM are taken. Call llava_nb.free_vram()"),
        (HIDDEN, {}, "CUDA_VISIBLE_DEVICES hides every GPU: unset that variable"),
        (HANGING, {"place": "local"}, "no answer in 10 s). Restart the machine"),
    ],
)
def test_every_fault_has_its_repair(check, found, machine, advice):
    report = check(found, **machine)
    assert len(report.advice) == 1, report.advice
    assert advice in report.advice[0]


def test_a_fault_is_marked_in_the_text(check):
    lines = str(check(T4, torch_cuda=None, versions={"transformers": "4.57.6"})).splitlines()
    failed = [line.split()[1] for line in lines if line.startswith("[FAIL]")]
    assert failed == ["torch", "transformers"]


def test_a_later_minor_cuda_version_is_no_fault(check):
    assert check(T4, torch_cuda="12.8").no_cuda_reason is None


def test_torch_is_believed_when_it_was_asked(check, monkeypatch):
    monkeypatch.setattr(nvidia, "ask_torch", lambda: (True, Reading((A100,))))
    assert check(NO_GPU, ask_torch=True).gpu == A100
    monkeypatch.setattr(nvidia, "ask_torch", lambda: (False, Reading()))
    report = check(T4, ask_torch=True)
    assert report.torch_sees_gpu is False
    assert "Restart the runtime" in report.advice[0]


def test_a_torch_that_breaks_on_import_does_not_raise(check, monkeypatch):
    def broken():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(nvidia, "ask_torch", broken)
    assert check(T4, ask_torch=True).torch_sees_gpu is False


def test_check_gpu_reports_even_where_every_probe_fails(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    probes = ("place", "versions", "torch_cuda", "bitsandbytes_library", "ram_bytes")
    for name in (*probes, "disk_free_bytes"):
        monkeypatch.setattr(facts, name, broken)
    monkeypatch.setattr(nvidia, "read", broken)
    report = runtime.check_gpu()
    assert (report.gpu, report.ram_total_bytes, report.versions) == (None, None, {})
    assert "unknown" in str(report) and "<table>" in report._repr_html_()
    assert runtime.free_ram_bytes() is None


def test_the_text_holds_no_name_path_or_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = runtime.check_gpu()
    for secret in ("somebody", "hf_secret", str(tmp_path)):
        assert secret not in str(report) + report._repr_html_()


def test_the_text_names_the_choice_and_its_reason(check):
    line = next(line for line in str(check(T4)).splitlines() if "auto takes" in line)
    assert "llava-1.5-13b: it needs 10.19 GiB of VRAM in 4 bits" in line


def test_html_escapes_and_brings_no_colours(check):
    page = check(Reading(problem='nvidia-smi says "<img src=x onerror=alert(1)>"'))._repr_html_()
    assert "<img" not in page and "&lt;img" in page
    assert "color" not in page and "background" not in page


def test_html_and_text_hold_the_same_lines(check):
    report = check(T4)
    assert report._repr_html_().count("<tr>") == len(str(report).splitlines()) - 1


def test_a_report_is_frozen_and_can_be_hashed(check):
    report = check(T4)
    with pytest.raises(AttributeError):
        report.place = "moon"
    assert isinstance(hash(report), int)


def test_free_ram_is_the_available_part(check):
    check(T4)
    assert runtime.free_ram_bytes() == 11 * GIB


@pytest.mark.parametrize(
    ("count", "text"), [(15633743872, "14.56 GiB"), (0, "0.00 GiB"), (None, "unknown")]
)
def test_bytes_are_written_in_gib(count, text):
    assert format_gib(count) == text
