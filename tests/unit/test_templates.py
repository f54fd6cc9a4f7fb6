"""Which conversation a model of the family is prompted with, and what stands in for a lost one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from family_checkpoints import FAMILY, make_member
from transformers import LlamaConfig, LlavaConfig, Qwen2Config

from llava_nb import ModelError, load, prompts
from llava_nb.templates import style_of

QUESTION = "What is this?"
WITHOUT_TEMPLATE = {
    "llava-1.5": "vicuna_v1",
    "bakllava": "vicuna_v1",
    "vip-llava": "llava_v1",
    "llava-1.6-vicuna": "vicuna_v1",
    "llava-1.6-mistral": "mistral_instruct",
    "llava-onevision": None,  # transformers' own template is put there
}


@pytest.fixture(params=FAMILY)
def folder(request, tmp_path):
    make_member(request.param, tmp_path)
    return request.param, tmp_path


def test_the_prompt_is_the_published_template_and_for_1_5_what_it_was_trained_with(folder):
    name, path = folder
    assert load(path).prompt_text(QUESTION) == FAMILY[name].asked.format(QUESTION)


def test_without_a_template_it_is_what_the_model_was_trained_with(folder):
    name, path = folder
    (path / "chat_template.jinja").unlink()
    llava = load(path)
    style = WITHOUT_TEMPLATE[name]
    asked = FAMILY[name].asked.format(QUESTION)
    if style is not None:
        asked = prompts.build([(f"<image>\n{QUESTION}", None)], style)
    assert (llava.style, llava.prompt_text(QUESTION)) == (style, asked)


def test_a_template_for_text_alone_counts_as_none(tmp_path):
    """Tokenizers of language models bring theirs along; it would say nothing of the picture."""
    make_member("llava-onevision", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for message in messages %}{{ message['role'] + message['content'] | string }}"
        "{% endfor %}"
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    asked = FAMILY["llava-onevision"].asked.format(QUESTION)
    assert load(tmp_path).prompt_text(QUESTION) == asked


@pytest.mark.parametrize("text", [Qwen2Config(), LlamaConfig(vocab_size=128256)])
def test_a_conversation_that_nobody_knows_is_not_guessed(text):
    processor = SimpleNamespace(chat_template=None)
    message = f"not known how a llava on {text.model_type} was prompted.*chat_template.jinja"
    with pytest.raises(ModelError, match=message):
        style_of(processor, LlavaConfig(text_config=text))
