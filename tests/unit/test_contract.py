"""The public names and how they are called: what notebooks and other people's code count on."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import llava_nb
from llava_nb.inference.chat import Chat

ANSWER_SETTINGS = "max_new_tokens=256, temperature=0.0, top_p=None, stop=None"
CALLS = {
    "check_gpu": "",
    "load": "model='auto', *, quantization='4bit', token=None, cache_dir=None, check=True, "
    "alone=True",
    "estimate_vram": "model, *, quantization='4bit', images=1, prompt_tokens=64, "
    "max_new_tokens=1024, batch_size=1",
    "vram_report": "",
    "track_vram": "label",
    "VramLog": "",
    "free_vram": "",
    "open_image": "source",
    "example_picture": "name",
    "caption_folder": "llava, folder, output, *, prompt='Describe this picture.', batch_size=8, "
    "recursive=False, engine='local'",
    "caption_panel": "llava=None, *, title='', examples=None, presets=None, language='en'",
    "Llava.caption_image": "image_file, prompt='Describe this picture.'",
    "Llava.ask": f"image, prompt, *, {ANSWER_SETTINGS}",
    "Llava.stream": f"image, prompt, *, {ANSWER_SETTINGS}",
    "Llava.ask_batch": f"images, prompts, *, batch_size=8, {ANSWER_SETTINGS}",
    "Llava.chat": "image",
    "Llava.save_4bit": "folder",
    "Llava.close": "",
    "Llava.prompt_text": "prompt",
}
OURS = ["ImageError", "ModelError", "OutOfVramError", "PromptError"]
ERRORS = dict.fromkeys(OURS, "LlavaNbError") | {"DoesNotFitError": "ModelError"}
OTHERS = {"LlavaNbError", "Llava", "Answer", "FolderResult"}


def found(path):
    thing = llava_nb
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


@pytest.mark.parametrize("code", ["import llava_nb", "import llava_nb; str(llava_nb.check_gpu())"])
def test_import_and_report_load_nothing_heavy(code):
    """A notebook's first cell and `--help` must not wait for torch."""
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    loaded = set(subprocess.run(command, capture_output=True, text=True).stdout.split())
    assert "llava_nb" in loaded
    assert not loaded & {"torch", "transformers", "ipywidgets", "matplotlib", "PIL", "numpy"}


def test_a_star_import_brings_exactly_the_public_names():
    names: dict = {}
    exec("from llava_nb import *", names)
    functions = {name for name in CALLS if "." not in name}
    assert set(names) - {"__builtins__"} == functions | set(ERRORS) | OTHERS


@pytest.mark.parametrize("path", CALLS)
def test_a_public_call_takes_what_was_promised(path):
    """In this order, under these names, with these defaults; more may follow, if it has one."""
    here = inspect.signature(found(path)).parameters.values()
    ours = [each for each in here if each.name != "self"]
    wanted = list(inspect.signature(eval(f"lambda {CALLS[path]}: 0")).parameters.values())
    by_name = {each.name: each for each in ours}
    for each in wanted:
        assert each.name in by_name, f"{path} has no {each.name}"
        if each.default is not inspect.Parameter.empty:
            assert by_name[each.name].default == each.default, f"{path}: {each.name}"
        assert by_name[each.name].kind == each.kind, f"{path}: {each.name}"
    positional = [each.name for each in ours if each.kind == each.POSITIONAL_OR_KEYWORD]
    promised = [each.name for each in wanted if each.kind == each.POSITIONAL_OR_KEYWORD]
    assert positional[: len(promised)] == promised
    new = [each for each in ours if each.name not in {one.name for one in wanted}]
    assert all(
        each.default is not inspect.Parameter.empty or each.kind == each.VAR_KEYWORD for each in new
    )


def test_classes_have_the_bases_and_fields_that_were_promised(tiny):
    assert all(issubclass(found(name), found(base)) for name, base in ERRORS.items())
    for thing, names in [
        (Chat(None), "ask stream go_on undo regenerate turns messages"),
        (tiny, "model processor name quantization style"),
        (llava_nb.Answer("A cat.", 1, 0.5, 0.1), "text tokens seconds first_token_seconds "
         "peak_vram_bytes finish error"),
    ]:  # fmt: skip
        assert not [name for name in names.split() if not hasattr(thing, name)]


@pytest.mark.parametrize("path", [*CALLS, "Answer", "Llava", "FolderResult", *ERRORS])
def test_help_says_what_a_public_name_is_for(path):
    text = inspect.getdoc(found(path))
    assert text and not text.startswith(f"{path}("), path
