"""check_gpu(): machines with every kind of GPU, driver and torch, described in a line each."""

import importlib.metadata
import importlib.util
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest
import torch

from llava_nb import LlavaNbError, check_gpu, machine
from llava_nb.errors import format_gib
from llava_nb.gpu import GpuReport, compute_dtype_name, recommend
from llava_nb.sizes import GIB

T4 = {"name": "Tesla T4", "capability": (7, 5), "memory": (15 * GIB, 14 * GIB)}
A100 = {"name": "NVIDIA A100-SXM4-40GB", "capability": (8, 0), "memory": (40 * GIB, 39 * GIB)}
GB10 = {"name": "NVIDIA GB10", "capability": (12, 1), "memory": None}
PLACE_VARIABLES = {"colab": "COLAB_RELEASE_TAG", "kaggle": "KAGGLE_KERNEL_RUN_TYPE", "local": None}


class NVMLError_LibraryNotFound(Exception):
    """As pynvml names it."""


def driver(gpus, error=None, version="550.54.15", cuda=12040, hang=None):
    """In place of pynvml: GPUs as dicts; a fact that is None, or absent, is not supported."""

    def start():
        if hang:
            hang()
        if error:
            raise error

    return SimpleNamespace(
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: known(version),
        nvmlSystemGetCudaDriverVersion=lambda: known(cuda),
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: known(gpus[index]),
        nvmlDeviceGetName=lambda gpu: known(gpu.get("name")),
        nvmlDeviceGetUUID=lambda gpu: known(gpu.get("uuid")),
        nvmlDeviceGetCudaComputeCapability=lambda gpu: list(known(gpu.get("capability"))),
        nvmlDeviceGetMigMode=lambda gpu: (known(gpu.get("mig")), 0),
        nvmlDeviceGetMemoryInfo=lambda gpu: memory(*known(gpu.get("memory"))),
    )


def memory(total, free):
    return SimpleNamespace(total=total, free=free, available=free)


def known(fact):
    if fact is None:
        raise RuntimeError("Not Supported")
    return fact


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """No variable of this machine has a say."""
    for name in "COLAB_RELEASE_TAG COLAB_GPU KAGGLE_KERNEL_RUN_TYPE CUDA_VISIBLE_DEVICES".split():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hang():
    """A call that does not come back before the test ends."""
    end, before = threading.Event(), set(threading.enumerate())
    yield end.wait
    end.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check(gpus or error, torch_gpus=...) -> the report of such a machine."""

    def run(*gpus, torch_gpus=None, place="colab", cuda="12.8", rocm=None, ask=False, **others):
        error = NVMLError_LibraryNotFound("NVML Shared Library Not Found") if not gpus else None
        if gpus and isinstance(gpus[0], Exception):
            error, *gpus = gpus
        facts = {name: others[name] for name in ("version", "hang") if name in others}
        monkeypatch.setitem(sys.modules, "pynvml", driver(gpus, error, **facts))
        if PLACE_VARIABLES[place]:
            monkeypatch.setenv(PLACE_VARIABLES[place], "1")
        versions = {"torch": "2.11.0+cu128"} | others.get("versions", {})
        monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name, "99"))
        (tmp_path / "version.py").write_text(f"cuda = {cuda!r}\nhip = {rocm!r}\n")
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(torch.version, "hip", rocm)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(13 * GIB, 11 * GIB))
        see(monkeypatch, torch_gpus, others.get("arches", []))
        return check_gpu(ask_torch=ask)

    return run


def see(monkeypatch, gpus, arches):
    """Let torch see these GPUs, or none."""
    gpus = gpus or []

    def properties(index):
        total = gpus[index].get("size")
        return SimpleNamespace(uuid=known(gpus[index].get("uuid"))[4:], total_memory=total)

    stand_ins = {
        "is_available": lambda: bool(gpus),
        "device_count": lambda: len(gpus),
        "get_device_name": lambda index: gpus[index]["name"],
        "get_device_capability": lambda index: known(gpus[index].get("capability")),
        "get_device_properties": properties,
        "mem_get_info": lambda index: known(gpus[index].get("memory"))[::-1],
        "get_arch_list": lambda: arches,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def verdict(report, model):
    return next(each for each in report.verdicts if each.model == model)


# What the driver tells, and what torch adds

ORIN = {"name": "Orin", "capability": (8, 7), "memory": (61 * GIB, 50 * GIB)}
PART = {"name": "NVIDIA A100 MIG 1g.5gb", "capability": (8, 0), "memory": (5 * GIB, 4 * GIB)}
AMD = {"name": "AMD Instinct MI300X", "capability": (9, 4), "memory": (192 * GIB, 190 * GIB)}
OLD_GPU = {"name": "GTX 980", "capability": (5, 2), "memory": (16 * GIB, 16 * GIB)}
# What torch cannot tell is the driver's; so is the memory, asked before torch's context took some.
SILENT = {"name": "Tesla T4", "capability": None, "memory": (15 * GIB, 13 * GIB)}
GB10_FREE = GB10 | {"memory": (120 * GIB, 110 * GIB)}
GB10_SIZE = GB10 | {"size": 120 * GIB, "uuid": "GPU-1"}
BIG = {"vram_total_bytes": 120 * GIB}
MACHINES = [  # the driver's GPUs, what else there is, facts of the report, the model, in its text
    ([T4], {}, {"gpu_name": "Tesla T4", "capability": (7, 5), "vram_total_bytes": 15 * GIB,
                "vram_free_bytes": 14 * GIB, "driver": "550.54.15", "driver_cuda": "12.4",
                "compute_dtype": "float16", "advice": ()}, "llava-1.5-13b", "Tesla T4"),
    ([{"name": "NVIDIA GB10"}], {"version": None},
     {"gpu_name": "NVIDIA GB10", "capability": None, "driver": None}, "tiny", "unknown"),
    ([GB10], {"torch_gpus": [GB10_FREE]}, BIG | {"vram_free_bytes": 110 * GIB, "torch_sees_gpu":
     True}, "llava-1.5-13b", ""),
    ([GB10], {"torch_gpus": [GB10_FREE], "ask": True}, BIG | {"vram_free_bytes": 110 * GIB,
     "torch_sees_gpu": True}, "llava-1.5-13b", ""),
    ([GB10], {"torch_gpus": [GB10_SIZE]}, BIG | {"vram_free_bytes": None}, "tiny", ""),
    ([GB10], {"torch_gpus": [GB10_SIZE], "ask": True}, BIG | {"vram_free_bytes": None}, "tiny", ""),
    ([T4], {"torch_gpus": [SILENT], "ask": True},
     {"capability": (7, 5), "vram_free_bytes": 14 * GIB}, "llava-1.5-13b", ""),
    # Of a GPU in parts the part counts.
    ([A100 | {"mig": 1}], {"torch_gpus": [PART]},
     {"gpu_name": PART["name"], "vram_free_bytes": 4 * GIB}, "tiny", ""),
    # AMD's GPUs are found by a torch for them.
    ([], {"torch_gpus": [AMD], "cuda": None, "rocm": "7.0"},
     {"gpu_name": AMD["name"], "capability": None, "compute_dtype": "float16"}, None, "ROCm 7.0"),
    ([OLD_GPU], {"place": "local"}, {"compute_dtype": "float32"}, "tiny",
     "4 bits need compute capability 6.0, and the GTX 980 has 5.2"),
    ([OLD_GPU, T4], {"torch_gpus": [OLD_GPU, T4]}, {"gpu_name": "Tesla T4"}, "llava-1.5-13b", ""),
    *(([T4 | {"memory": memory}], {"torch_gpus": [T4 | {"memory": memory}]}, {}, "tiny",
       "cannot tell") for memory in (None, (0, 0), (None, None), (15 * GIB, 16 * GIB))),
]  # fmt: skip


@pytest.mark.parametrize(("gpus", "options", "facts", "model", "said"), MACHINES)
def test_a_machine_is_described(check, gpus, options, facts, model, said):
    report = check(*gpus, **options)
    assert {name: getattr(report, name) for name in facts} == facts
    assert said in str(report) and (model is None or recommend(report).model == model)
    assert ("FAIL" in str(report)) == bool(report.advice)
    if said == "cannot tell":
        assert "free VRAM of the Tesla T4 is unknown" in recommend(report).reason
        assert not any(each.fits for each in report.verdicts)


def test_without_a_driver_only_the_embedded_model_fits_or_torch_is_asked(
    check, monkeypatch, tmp_path
):
    monkeypatch.setattr(machine, "DRIVER_SIGNS", ())
    report = check()
    assert report.torch_sees_gpu is None
    assert [each.model for each in report.verdicts if each.fits] == ["tiny"]
    assert (report.compute_dtype, report.gpu_problem) == ("float32", "no NVIDIA driver was found")
    monkeypatch.setattr(machine, "DRIVER_SIGNS", (tmp_path / "none", tmp_path))
    assert recommend(check(torch_gpus=[ORIN])).model == "llava-1.5-13b"


@pytest.mark.parametrize("error", [RuntimeError("GPU is lost"), AttributeError("x"), OSError()])
def test_whatever_the_drivers_library_raises_is_the_problem(check, error):
    report = check(error)
    assert report.gpu_problem == f"asking the NVIDIA driver failed ({error})"
    assert "driver failed" in report.advice[0] and "[FAIL] GPU" in str(report)
    assert "asking the NVIDIA driver failed" in check(None).gpu_problem
    assert [each.name for each in check(None, T4).gpus] == ["Tesla T4"], "one is lost"


def test_a_hanging_driver_is_given_up_and_not_asked_twice(check, monkeypatch, hang):
    monkeypatch.setattr(machine, "LIMIT_SECONDS", 0.2)
    for _ in range(2):
        report = check(T4, torch_gpus=[T4], hang=hang, ask=True)
        assert report.gpu_problem == "the NVIDIA driver gave no answer in 0.2 s"
        assert report.torch_sees_gpu is None
    assert "Restart the machine" in report.advice[0]


def test_libraries_that_are_missing_or_break_are_named(check, monkeypatch):
    check(T4)
    monkeypatch.setitem(sys.modules, "torch", None)
    report = check_gpu(ask_torch=True)
    assert report.torch_sees_gpu is False and "ModuleNotFoundError" in report.torch_problem
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "Run: pip install nvidia-ml-py" in check_gpu().advice[0]


def test_gpus_of_several_kinds_are_numbered_as_torch_numbers_them(check):
    t4, a100 = T4 | {"uuid": "GPU-aa"}, A100 | {"uuid": "GPU-bb"}
    report = check(t4, a100, torch_gpus=[a100, t4])
    found = [(each.name, each.free_bytes) for each in report.gpus]
    assert found == [(a100["name"], 39 * GIB), ("Tesla T4", 14 * GIB)]


def test_a_hanging_torch_leaves_what_the_driver_said(check, monkeypatch, hang):
    check(T4, torch_gpus=[T4])
    monkeypatch.setattr(machine, "LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(torch.cuda, "is_available", hang)
    report = check_gpu(ask_torch=True)
    assert (report.gpu_name, report.torch_sees_gpu) == ("Tesla T4", None)
    assert "2.11.0+cu128, CUDA 12.8, torch gave no answer in 0.2 s" in str(report)


@pytest.mark.parametrize(
    ("capability", "arches", "runs"),
    [((6, 0), ["sm_75", "sm_80", "sm_120"], False),
     ((6, 0), ["sm_50", "sm_60", "sm_75"], True),
     ((8, 9), ["sm_80", "sm_90a"], True),
     ((12, 1), ["sm_80", "compute_90"], True),
     ((12, 1), ["sm_80", "sm_90"], False)],
)  # fmt: skip
def test_a_gpu_that_torch_has_no_code_for_is_not_taken(check, capability, arches, runs):
    old = {"name": "Tesla P100", "capability": capability, "memory": (16 * GIB, 16 * GIB)}
    report = check(old, torch_gpus=[old], arches=arches, ask=True, place="kaggle")
    assert (report.no_cuda_reason is None) == runs
    if not runs:
        assert "compute capabilities" in recommend(report).reason
        assert "Settings > Accelerator > GPU T4 x2" in report.advice[0]


# Which GPUs are visible

SECOND = T4 | {"memory": (15 * GIB, 9 * GIB), "uuid": "GPU-5e"}


@pytest.mark.parametrize(
    ("choice", "free_gib"),
    [(None, [14, 9]), ("0,1", [14, 9]), ("1", [9]), (" 1 , 0", [9, 14]), ("0,7,1", [14]),
     ("0,-1,1", [14]), ("0,x,1", [14]), ("1,1", []), ("GPU-5", [9]),
     ("GPU-5e,GPU-3f2a9c", [9, 14]), ("GPU-zz", []), ("GPU-", []), ("", []), ("-1", [])],
)  # fmt: skip
def test_cuda_visible_devices_chooses_as_cuda_does(check, monkeypatch, choice, free_gib):
    if choice is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    report = check(T4 | {"uuid": "GPU-3f2a9c"}, SECOND)
    assert [each.free_bytes // GIB for each in report.gpus] == free_gib
    assert [each.index for each in report.gpus] == list(range(len(free_gib)))
    if not free_gib:
        assert "CUDA_VISIBLE_DEVICES hides every GPU. Unset that" in report.advice[0]


@pytest.mark.parametrize("free", [(5, 14), (14, 5), (14, 14)])
def test_of_two_gpus_the_one_with_more_free_vram_is_used(check, free):
    report = check(*(T4 | {"memory": (15 * GIB, each * GIB)} for each in free))
    assert report.gpu.index == free.index(max(free))
    assert str(report).count("the one to use") == 1


# Verdicts, repairs, text


@pytest.mark.parametrize(
    ("capability", "name", "reason"),
    [((7, 5), "float16", "7.5 has no bfloat16 units; torch.cuda.is_bf16_supported"),
     ((8, 0), "bfloat16", "8.0 has bfloat16"),
     ((12, 1), "bfloat16", "12.1 has bfloat16"),
     (None, "float32", "without a CUDA GPU")],
)  # fmt: skip
def test_the_compute_dtype_follows_the_capability(capability, name, reason):
    chosen, why = compute_dtype_name(capability)
    assert chosen == name and reason in why


def test_a_verdict_says_by_how_much_a_model_fits_or_not(check):
    report = check(T4 | {"memory": (8 * GIB, 8 * GIB)})
    seven, thirteen = verdict(report, "llava-1.5-7b"), verdict(report, "llava-1.5-13b")
    assert seven.why.startswith(f"fits with {format_gib(8 * GIB - seven.needed_bytes)} to spare")
    short = format_gib(thirteen.needed_bytes - 8 * GIB)
    assert thirteen.why.startswith(f"does not fit: {short} short") and not thirteen.fits
    assert "llava-1.5-13b would need 10.19 GiB" in str(report)


@pytest.mark.parametrize(
    ("place", "menu"),
    [("colab", "Runtime > Change runtime type > T4 GPU > Save, then Runtime > Run all"),
     ("kaggle", "Settings > Accelerator > GPU T4 x2"),
     ("local", "https://www.nvidia.com/drivers")],
)  # fmt: skip
def test_without_a_gpu_the_advice_is_the_way_to_one(check, place, menu):
    report = check(place=place)
    assert menu in report.advice[0] and menu in str(report)
    assert (place == "colab") == ("Runtime >" in str(report))
    assert report.no_cuda_reason == "there is no CUDA GPU"


OLD = {"transformers": "4.57.6"}


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        ({"cuda": None}, "CPU build and cannot use the Tesla T4. Run: pip install --force-rein"),
        ({"cuda": None, "rocm": "7.0", "ask": True}, "is for AMD's GPUs and cannot use the Tesla"),
        ({"cuda": "13.0"}, "needs CUDA 13.0, and driver 550.54.15 goes up to CUDA 12.4. Update"),
        ({"ask": True}, "cannot use the Tesla T4 (torch.cuda.is_available() is False). Start Pyth"),
        ({"versions": {"torch": None}}, "torch is not installed. Run: bash colab_setup.sh"),
        ({"versions": {"bitsandbytes": None}}, "pip install bitsandbytes"),
        ({"versions": OLD}, "Runtime version > Latest"),
        ({"versions": OLD, "place": "local"}, 'pip install "transformers>=5.0"'),
        ({"versions": {"bitsandbytes": "0.45.0"}}, 'pip install "bitsandbytes>=0.46.1"'),
    ],
)
def test_every_fault_has_its_repair_and_those_of_torch_leave_the_embedded_model(
    check, others, advice
):
    report = check(T4, **others)
    assert len(report.advice) == 1 and advice in report.advice[0], report.advice
    assert "FAIL" in str(report)
    is_of_torch = "torch" in report.advice[0]
    assert (recommend(report).model == "tiny") == is_of_torch
    if is_of_torch:
        assert recommend(report).reason.startswith(("torch", "the installed torch"))


def test_memory_that_others_hold_is_told(check):
    [advice] = check(T4 | {"memory": (15 * GIB, 2 * GIB)}).advice
    assert "13.00 GiB of 15.00 GiB of VRAM are taken. Call llava_nb.free_vram()" in advice


def test_text_and_html_hold_no_name_path_token_or_tag(check, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = check(OSError("/home/somebody/lib: <img src=x onerror=alert(1)>"))
    text, page = str(report), report._repr_html_()
    assert "(~/lib: <img" in text and "&lt;img" in page
    for secret in ("somebody", "hf_secret", str(tmp_path)):
        assert secret not in text + page
    assert not [word for word in ("<img", "color", "background") if word in page]
    assert page.count("<tr>") == len(text.partition("What to do:")[0].splitlines()) - 1


def test_check_gpu_reports_even_where_every_probe_fails(check, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    check(RuntimeError("broken"))
    monkeypatch.setattr(psutil, "virtual_memory", broken)
    monkeypatch.setattr(importlib.util, "find_spec", broken)
    monkeypatch.setattr(importlib.metadata, "version", broken)
    monkeypatch.setattr(machine.shutil, "disk_usage", broken)
    monkeypatch.setattr(machine, "PROC", machine.Path("/no such folder"))
    report = check_gpu()
    assert (report.gpu, report.ram_total_bytes, report.disk_free_bytes) == (None, None, None)
    assert "unknown" in str(report)


# Which model to take


@pytest.mark.parametrize(
    ("free_gib", "chosen"),
    [(14.7, "llava-1.5-13b"), (11, "llava-1.5-13b"), (10, "llava-1.5-7b"), (6.5, "llava-1.5-7b")],
)
def test_the_largest_that_fits_is_recommended(check, free_gib, chosen):
    recommendation = recommend(check(T4 | {"memory": (15 * GIB, int(free_gib * GIB))}))
    assert recommendation.model == chosen, recommendation.reason
    assert f"Tesla T4 has {free_gib:.2f} GiB free" in recommendation.reason


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        ([], "there is no CUDA GPU, and llava-onevision-0.5b, which a CPU can run, cannot be had"),
        (
            [T4 | {"memory": (15 * GIB, 3 * GIB)}],
            "has only 3.00 GiB of VRAM free, and llava-onevision-0.5b, which takes less, needs "
            "4.35 GiB of VRAM in 4 bits, and 3.00 GiB are free",
        ),
        ([T4 | {"memory": (15 * GIB, 5 * GIB)}], "which takes less, cannot be had (HF_HUB_OFFLINE"),
    ],
)
def test_without_enough_vram_the_embedded_model_is_recommended(check, gpus, reason):
    recommendation = recommend(check(*gpus))
    assert recommendation.model == "tiny" and reason in recommendation.reason


ROOM = {"ram_available_bytes": 8 * GIB, "disk_free_bytes": 8 * GIB}


@pytest.mark.parametrize(
    ("problem", "room", "model", "reason"),
    [
        (None, {}, "llava-onevision-0.5b", "no CUDA GPU; it is a real LLaVA that a CPU can run"),
        ("no answer in 3 s", {}, "tiny", "which a CPU can run, cannot be had (no answer in 3 s)"),
        (None, {"ram_available_bytes": 2 * GIB}, "tiny", "of RAM, and 2.00 GiB are available"),
        (None, {"disk_free_bytes": GIB}, "tiny", "GiB of disk, and 1.00 GiB are free"),
        (None, dict.fromkeys(ROOM), "llava-onevision-0.5b", "in 3.83 GiB of RAM"),
    ],
)
def test_without_a_gpu_a_small_real_model_is_recommended(monkeypatch, problem, room, model, reason):
    monkeypatch.setattr(machine, "hub_problem", lambda hub_id: problem)
    recommendation = recommend(GpuReport(**ROOM | room))
    assert (recommendation.model, reason in recommendation.reason) == (model, True), recommendation
    assert recommendation.quantization == ("4bit" if model == "tiny" else None)


def test_a_gpu_too_small_for_llava_1_5_gets_the_small_model_in_4_bits(check, monkeypatch):
    monkeypatch.setattr(machine, "hub_problem", lambda hub_id: None)
    for free_gib in (4.5, 6.1):
        chosen = recommend(check(T4 | {"memory": (15 * GIB, int(free_gib * GIB))}))
        assert (chosen.model, chosen.quantization) == ("llava-onevision-0.5b", "4bit")
        assert f"only {free_gib:.2f} GiB of VRAM free; it is a real LLaVA" in chosen.reason


def test_the_hub_is_not_asked_where_there_is_a_gpu_or_for_a_look_at_the_machine(check, monkeypatch):
    monkeypatch.setattr(machine, "hub_problem", lambda hub_id: pytest.fail("it was asked"))
    assert check().gpu is None
    assert "llava-1.5-13b" in str(recommend(check(T4, torch_gpus=[T4])))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda: SimpleNamespace(raise_for_status=lambda: None), None),
        (lambda: (_ for _ in ()).throw(OSError("no route")), "huggingface.co cannot be reached"),
    ],
)
def test_the_hub_is_asked_once_for_a_small_file(monkeypatch, answer, problem):
    asked = []
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr("requests.head", lambda url, **_: asked.append(url) or answer())
    assert machine.hub_problem("somebody/some-llava") == problem
    assert asked == ["https://huggingface.co/somebody/some-llava/resolve/main/config.json"]


def test_a_hub_that_hangs_is_waited_for_three_seconds(monkeypatch, hang):
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("requests.head", lambda url, **_: hang())
    monkeypatch.setattr(machine, "HUB_SECONDS", 0.1)
    assert "gave no answer in 0.1 s" in machine.hub_problem("somebody/some-llava")


@pytest.mark.parametrize("wrong", ["yes", 1, None, [True], {}, GpuReport])
def test_a_wrong_argument_is_named(wrong):
    with pytest.raises(LlavaNbError, match=r"ask_torch is .*; it is True or False"):
        check_gpu(ask_torch=wrong)
    with pytest.raises(LlavaNbError, match=r"recommend\(check_gpu\(\)\)"):
        recommend(wrong)


# RAM and disk


@pytest.fixture
def files(monkeypatch, tmp_path):
    """A /proc and a /sys/fs/cgroup that tests fill; the host has 13 GiB, of which 11 are free."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(13 * GIB, 11 * GIB))

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(str(text))

    return write


V1, V2 = "5:cpuset:/\n4:memory:/gone\n0::/\n", "0::/box/inner\n"  # the limit may be around it


@pytest.mark.parametrize(
    ("groups", "folder", "names", "statistics"),
    [(V2, "box", "memory.max memory.current", "anon 1\ninactive_file {}\n"),
     (V1, "memory", "memory.limit_in_bytes memory.usage_in_bytes",
      "cache 7\ntotal_inactive_file {}\n")],
    ids=["cgroup 2", "cgroup 1"],
)  # fmt: skip
def test_a_containers_limit_counts_and_cached_files_are_free(
    files, groups, folder, names, statistics
):
    files("proc/self/cgroup", groups)
    for name, count in zip(names.split(), (8_000_000_000, 5_000_000_000), strict=True):
        files(f"cgroup/{folder}/{name}", count)
    files(f"cgroup/{folder}/memory.stat", statistics.format(4_000_000_000))
    files("cgroup/box/inner/memory.max", "max\n")
    assert machine.ram_bytes() == (8_000_000_000, 7_000_000_000)


@pytest.mark.parametrize("text", ["4:memory:/\n", "garbage", ""])
def test_without_a_limit_the_ram_is_the_hosts(files, text):
    files("proc/self/cgroup", text)
    files("cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    files("cgroup/memory/memory.usage_in_bytes", 1)
    files("cgroup/memory/memory.stat", "")
    assert machine.ram_bytes() == (13 * GIB, 11 * GIB)


def test_disk_is_that_of_the_cache_or_its_nearest_parent(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there" / "yet"))
    asked = []
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: asked.append(path) or usage)
    assert machine.disk_free_bytes() == usage.free and asked == [tmp_path]
