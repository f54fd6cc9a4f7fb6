"""LLaVA-OneVision 0.5B in its true shape, random, through the command line on a CPU."""

from __future__ import annotations

import re

import pytest
from family_checkpoints import make_true_shape
from PIL import Image, ImageDraw, ImageFilter
from small_hub import Hub

NAME, HUB_ID = "llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
# Eight tokens are enough, and what this process held at most is told at the end.
CAPTION = """
import resource, sys
from llava_nb.__main__ import main
from llava_nb.inference.chat import Chat
stream = Chat.stream
Chat.stream = lambda chat, question: stream(chat, question, max_new_tokens=8)
code = main(["caption", "cat.jpg"])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def draw_cat(path):
    """A photograph of a kind: a blurred head with ears, on noise."""
    picture = Image.effect_noise((640, 480), 60).convert("RGB")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((200, 160, 440, 400), "sienna")
    for left in (210, 350):
        pen.polygon([(left, 220), (left + 40, 90), (left + 80, 190)], "saddlebrown")
    picture.filter(ImageFilter.GaussianBlur(3)).save(path)


@pytest.mark.slow
@pytest.mark.true_shape
def test_a_photograph_is_captioned_by_a_real_llava_in_less_than_6_gib(
    ask_hub, tmp_path, monkeypatch
):
    make_true_shape("llava-onevision", tmp_path / "published")
    monkeypatch.setattr(Hub, "repositories", {HUB_ID: tmp_path / "published"})
    monkeypatch.chdir(tmp_path)
    draw_cat("cat.jpg")
    without = ask_hub(CAPTION, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "no"))
    assert without.returncode == 1 and "caption:" not in without.stdout
    assert "No model that knows photographs can be had here" in without.stderr

    run = ask_hub(CAPTION)
    print(run.stdout, run.stderr[-600:])
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"Fetching 1.66 GiB for {NAME}: there is no CUDA GPU; it is" in run.stderr
    assert "reading the picture, " in run.stderr
    assert f"model:    {NAME} (not quantised): there is no CUDA GPU" in run.stdout
    assert re.search(r"caption:  \S+", run.stdout) and "8 tokens in" in run.stdout
    assert int(run.stdout.split("peak ")[1]) < 6 * 2**30
