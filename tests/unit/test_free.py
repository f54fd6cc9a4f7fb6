"""free_vram() and out-of-memory: what comes back, in Python and in a real IPython shell."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import sys
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from test_preflight import SEVEN, THIRTEEN, config_of
from transformers import LlavaForConditionalGeneration

from llava_nb import ModelError, OutOfVramError, free_vram, load
from llava_nb.loading.load import release
from llava_nb.sizes import GIB
from llava_nb.vram import report as free
from llava_nb.vram.report import or_out_of_vram, smaller_steps

ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")

# Cells of a notebook. In each, `held` is a weak reference to what a frame of an earlier cell has.
FAILS = """
import weakref, llava_nb
class Tensor: pass
def work():
    global held
    tensor = Tensor()
    held = weakref.ref(tensor)
    raise {error}
"""
AGAIN = """
assert held() is not None, "nothing kept it: this test would prove nothing"
llava_nb.free_vram()
assert held() is None, "free_vram() left it"
print("freed")
"""


def run_cells(*cells):
    """Run cells in a shell of its own; return what was printed, and whether the last succeeded."""
    code = (
        "import sys, json\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "done = [shell.run_cell(cell, store_history=True) for cell in json.loads(sys.argv[1])]\n"
        "sys.exit(not done[-1].success)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(cells)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


CAUGHT = "try:\n    work()\nexcept ValueError as error:\n    raise KeyError"
WAYS = {
    "next cell": ("ValueError", ["work()"]),
    "a cell later": ("ValueError", ["work()", "1 + 1"]),
    "interrupted": ("KeyboardInterrupt", ["work()"]),
    "in the error": ("ValueError(tensor)", ["work()"]),
    "in its handling": ("ValueError", [CAUGHT]),
    "its cause": ("ValueError", [f"{CAUGHT} from error"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_failed_cell_held_is_freed_in_the_next(way):
    error, cells = WAYS[way]
    done = run_cells(FAILS.format(error=error), *cells, AGAIN)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "freed", done.stdout


def test_so_it_is_in_a_notebook_with_its_kernel():
    sources = [FAILS.format(error="ValueError"), "work()", AGAIN]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook, at_root = nbformat.v4.new_notebook(cells=cells), {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, allow_errors=True, resources=at_root).execute()
    failed, freed = (cell.outputs[0] for cell in notebook.cells[1:])
    assert failed.ename == "ValueError" and freed.get("text") == "freed\n", freed


def test_a_cell_that_cannot_be_read_leaves_nothing_either():
    done = run_cells("import llava_nb", "def (", "print(llava_nb.free_vram())")
    assert done.returncode == 0 and "came back" in done.stdout, done.stdout


ASKS = """
import torch, weakref, llava_nb
llava = llava_nb.load("tiny")
real, held = llava.model.generate, []
def fail(**_):
    tensor = torch.zeros(1000)
    held.append(weakref.ref(tensor))
    raise torch.OutOfMemoryError("CUDA out of memory.")
llava.model.generate = fail
"""
ASKS_AGAIN = """
assert held[0]() is None, "the error keeps the tensor"
llava.model.generate = real
print(llava.ask(None, "Hi", max_new_tokens=3).tokens, "tokens")
network = weakref.ref(llava.model)
del real
llava.close()
assert network() is None, "the error of an earlier cell keeps the model"
"""


def test_an_out_of_memory_in_a_cell_leaves_the_model_usable():
    done = run_cells(ASKS, 'llava.ask(None, "Hi")', ASKS_AGAIN)
    assert done.returncode == 0 and "tokens" in done.stdout, done.stdout + done.stderr
    assert "OutOfVramError" in done.stdout and "Traceback" in done.stdout


def test_what_models_remember_of_pictures_is_given_back(tiny, picture):
    tiny.ask(picture, "Describe this picture.")
    assert tiny.prefixes.nbytes > 0
    free_vram()
    assert tiny.prefixes.nbytes == 0 and not tiny.closed


def test_a_shell_that_is_not_ipythons_own_is_no_obstacle(monkeypatch):
    shell = types.SimpleNamespace(last_execution_result=None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert "came back" in str(free_vram())


def test_free_vram_imports_nothing_heavy():
    code = (
        "import sys, llava_nb; print(llava_nb.free_vram()); "
        "print(sorted({'torch', 'transformers', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@linux_only
def test_without_a_gpu_the_ram_that_came_back_is_told():
    class Node:
        pass

    node = Node()
    node.itself, node.block = node, b"x" * (200 * 10**6)  # a ring: only the collector frees it
    gc.disable()
    del node
    freed = free_vram()
    gc.enable()
    assert freed.memory == "RAM" and freed.allocated_bytes > 180 * 10**6, freed
    assert 0 < freed.free_bytes < freed.total_bytes and "GiB of RAM came back" in str(freed)


def test_on_a_gpu_unused_blocks_are_given_back(cuda):
    cuda.allocate(3 * GIB)
    cuda.free(2 * GIB)
    freed = free_vram()
    assert (freed.memory, freed.allocated_bytes, freed.reserved_bytes) == ("VRAM", 0, 2 * GIB)
    assert str(freed) == "2.00 GiB of VRAM came back; 15.00 GiB of 16.00 GiB are free."


def test_what_nobody_knows_is_unknown(monkeypatch):
    monkeypatch.setattr(free, "own_ram_bytes", lambda: (None, None))
    monkeypatch.setattr(free, "ram_bytes", lambda: (None, None))
    assert str(free_vram()) == "unknown of RAM came back; unknown of unknown are free."


@pytest.fixture(params=["ask", "stream"])
def failing(request, tiny, picture, monkeypatch):
    """(a list for what is held, a call that fails the first time): memory runs out once."""
    real, held = tiny.model.generate, []

    def generate(**arguments):
        if held:
            return real(**arguments)
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(tiny.model, "generate", generate)
    calls = {
        "ask": lambda: tiny.ask(picture, "Describe this picture.", max_new_tokens=40).text,
        "stream": lambda: list(tiny.stream(picture, "Describe this picture.", max_new_tokens=40)),
    }
    return held, calls[request.param]


def test_after_an_out_of_memory_the_tensors_are_gone_and_the_next_is_answered(failing):
    held, call = failing
    try:
        call()
    except OutOfVramError as error:
        kept = error  # as a notebook keeps it
    free_vram()
    assert held[0]() is None and kept.__context__ is None and kept.__cause__ is None
    assert call()
    with ThreadPoolExecutor(1) as pool:  # nothing is held, so another thread is answered too
        assert pool.submit(call).result(timeout=60)


def test_an_allocation_that_fails_deep_in_an_answer_leaves_the_model_usable(tiny, picture):
    """torch's own allocator refuses, after the picture has been read and some words are there."""
    expected, held, calls = tiny.ask(picture, "Describe this picture.").text, [], []
    layer = tiny.model.model.language_model.layers[2]

    def refuse(module, arguments):
        calls.append(len(calls))
        if len(calls) > 4:
            held.append(weakref.ref(arguments[0]))
            torch.empty(2**56)

    hook = layer.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfVramError, match="while answering"):
        tiny.ask(picture, "Describe this picture.")
    hook.remove()
    assert held[0]() is None, "the hidden states of the attempt are still there"
    assert tiny.ask(picture, "Describe this picture.").text == expected


def test_the_message_has_the_numbers_and_the_next_thing_to_try(failing, monkeypatch):
    monkeypatch.setattr(free, "ram_bytes", lambda: (15 * GIB, GIB // 2))
    with pytest.raises(OutOfVramError) as info:
        failing[1]()
    assert str(info.value) == (
        "The machine ran out of memory while answering. The memory of the attempt has been given "
        "back: 0.50 GiB of 15.00 GiB are free now. Next: ask for a shorter answer, "
        "max_new_tokens=20; or free what else is held, llava_nb.free_vram()."
    )


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_every_way_to_run_out_of_memory_is_known_and_has_the_gpus_numbers(error, cuda):
    cuda.allocate(2 * GIB)
    cuda.free(GIB)
    with pytest.raises(OutOfVramError) as info:
        or_out_of_vram(fail_with(error), "answering", torch.device("cuda:0"), list)
    assert str(info.value).startswith(
        "The GPU ran out of memory while answering. The memory of the attempt has been given "
        "back: 15.00 GiB of 16.00 GiB are free now."
    )


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ModelError("out of memory")])
def test_another_fault_is_passed_on_as_it_is(error):
    with pytest.raises(type(error)) as info:
        or_out_of_vram(fail_with(error), "answering", "cpu", list)
    assert info.value is error


def test_out_of_memory_while_loading_names_a_smaller_way(monkeypatch):
    release()
    fail = fail_with(torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(OutOfVramError, match=r'while loading tiny.*quantization="4bit"'):
        load("tiny", quantization=None)


def test_13b_has_7b_as_the_smaller_one_and_7b_has_tiny():
    smaller = smaller_steps(config_of(THIRTEEN), "4bit")
    assert smaller == ['load a smaller model, load("llava-1.5-7b")']
    assert smaller_steps(config_of(SEVEN), "8bit", 100) == [
        "ask for a shorter answer, max_new_tokens=50",
        'load the model in 4 bits, load(..., quantization="4bit")',
        'load a smaller model, load("tiny")',
    ]


def test_torch_on_a_cpu_says_it_in_the_words_that_are_looked_for():
    with pytest.raises(OutOfVramError, match="The machine ran out of memory while trying"):
        or_out_of_vram(lambda: torch.empty(2**56), "trying", "cpu", list)


# How much memory of its own the process has, in KiB, before and after something.
ANONYMOUS = """
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
"""
STAYS = """
import torch
from llava_nb.vram.report import large_blocks_apart
first = torch.ones(6 * 2**20); del first  # raises glibc's threshold to 24 MiB
with large_blocks_apart():
    before, kept = anonymous(), []
    for _ in range(20):
        large = [torch.ones(2 * 2**20) for _ in range(2)]
        kept.append(torch.ones(60_000))
        del large
    print(anonymous() - before)
"""
COMES_BACK = """
import llava_nb
blocks = [b"x" * 100_000 for _ in range(1000)]  # each below the size that is taken apart
del blocks[:-1]  # the last one holds the heap's end
before = anonymous()
llava_nb.free_vram()
print(before - anonymous())
"""


def printed_mib(program):
    command = [sys.executable, "-c", ANONYMOUS + program]
    return int(subprocess.run(command, capture_output=True, text=True).stdout) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has it")
def test_what_is_freed_leaves_the_process_and_holes_in_the_heap_are_given_back():
    """Blocks of 8 MiB freed between small ones that stay: the heap would keep them."""
    left, back = printed_mib(STAYS), printed_mib(COMES_BACK)
    assert left < 15, f"{left:.0f} MiB stayed, of which 5 are in use"  # 20 to 184 without it
    assert back > 60, f"{back:.0f} of 95 MiB came back"
