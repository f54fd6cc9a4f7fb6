"""LLaVA-OneVision 0.5B in its true shape, random, through the command line on a CPU."""

from __future__ import annotations

import re

import pytest
import torch
from family_checkpoints import CHATML, ENDS, WORDS
from PIL import Image, ImageDraw, ImageFilter
from small_hub import Hub
from test_family_sizes import config_of
from transformers import AutoModelForImageTextToText

from llava_lessons.tiny.build import build_tokenizer
from llava_nb.image_processor import LlavaOnevisionImageProcessorPil, OnevisionPictures

NAME, HUB_ID = "llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
TOKENS = 512  # in the tokenizer; the model's 152,000 are there, but only these are ever said
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


def publish(folder):
    """Write a random model of the true shape to `folder`, in half precision as on the hub."""
    config = config_of(NAME)
    config.image_token_id, config.text_config.eos_token_id = 3, ENDS["eos_token_id"]
    torch.manual_seed(5)
    network = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        network.get_input_embeddings().weight[TOKENS:] = 0
    for key, value in ENDS.items():
        setattr(network.generation_config, key, value)
    network.save_pretrained(folder)
    pixels = LlavaOnevisionImageProcessorPil(
        size={"height": 384, "width": 384}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    OnevisionPictures(
        pixels,
        build_tokenizer(WORDS, TOKENS),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    ).save_pretrained(folder)


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
    publish(tmp_path / "published")
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
