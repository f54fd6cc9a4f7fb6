"""Which conversation a model of the family is prompted with, and what stands in for a lost one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from family_checkpoints import FAMILY, SIDE, family_config, make_member
from PIL import Image
from transformers import AutoTokenizer

from llava_nb import ModelError, PromptError, load, prompts
from llava_nb.processor import build_processor, encode, encode_text, prompt_style, prompt_text

QUESTION = "What is this?"
WITHOUT_TEMPLATE = {
    "llava-1.5": "vicuna_v1",
    "bakllava": "vicuna_v1",
    "vip-llava": "llava_v1",
    "llava-1.6-vicuna": "vicuna_v1",
    "llava-1.6-mistral": "mistral_instruct",
    "llava-onevision": "chatml",
    "llava-interleave": "chatml",
    "joycaption": "llama_3",
    "llava-llama-3": "llama_3",
    "llama3-llava-next": "llava_llama_3",
    "tiny-llava": "vicuna_v1",
}


@pytest.fixture(params=FAMILY)
def folder(request, tmp_path):
    make_member(request.param, tmp_path)
    return request.param, tmp_path


def test_the_prompt_is_the_published_template_and_for_1_5_what_it_was_trained_with(folder):
    name, path = folder
    published = FAMILY[name].asked.format(QUESTION)
    assert load(path).prompt_text(QUESTION) == published
    (path / "chat_template.jinja").unlink(missing_ok=True)
    llava, style = load(path), WITHOUT_TEMPLATE[name]
    trained = prompts.build([(f"<image>\n{QUESTION}", None)], style) if style else published
    trained = trained.replace("<image>", FAMILY[name].image_token)
    assert (llava.style, llava.prompt_text(QUESTION)) == (style, trained)


def edited(path: Path, **changes: Any) -> None:
    """Change some entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_template_for_text_alone_counts_as_none(tmp_path):
    """Tokenizers of language models bring theirs along; it would say nothing of the picture."""
    make_member("llava-onevision", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    text_alone = "{% for m in messages %}{{ m['role'] + m['content'] | string }}{% endfor %}"
    edited(tmp_path / "tokenizer_config.json", chat_template=text_alone)
    asked = FAMILY["llava-onevision"].asked.format(QUESTION)
    assert load(tmp_path).prompt_text(QUESTION) == asked


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a LLaVA-1.5, and what it was published with."""
    place = tmp_path_factory.mktemp("made")
    make_member("llava-1.5", place)
    return place


def processor_of(made, tmp_path, template: str | None, *, tokenizers: str | None = None, **config):
    """The processor, and the config, of a copy with another chat template.

    `config` changes the model's config; `tokenizers` is the template in tokenizer_config.json.
    """
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    if template is not None:
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    if tokenizers is not None:
        edited(tmp_path / "tokenizer_config.json", chat_template=tokenizers)
    about = family_config("llava-1.5", 512)
    for name, value in config.items():
        part = about if hasattr(about, name) else about.text_config
        setattr(part, name, value)
    return build_processor(str(tmp_path), about), about


def asked(processor: Any, config: Any, turns=((QUESTION, None),), images: int = 1) -> str:
    style = prompt_style(processor, config)
    return prompt_text(processor, turns, images, style=style)


# As fancyfeast's llama-joycaption has it: text for content, the picture set by the template.
SETS_IT = (
    "{%- set ns = namespace(first=True) %}{%- for m in messages %}"
    "{%- if m['role'] == 'user' and ns.first %}{%- set ns.first = False %}"
    "{{ 'U <s><image><s>' + m['content'] + ' E ' }}"
    "{%- else %}{{ m['role'][0] | upper + ' ' + m['content'] + ' E ' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'A ' }}{%- endif %}"
)
SETS_NONE = SETS_IT.replace("<s><image><s>", "")
TWO_TURNS = (("One?", "Yes."), ("Two?", None))


PRINTS = SETS_IT.replace("m['content']", "m['content'] | string")  # and takes no parts


@pytest.mark.parametrize(
    ("template", "first"),
    [(SETS_IT, "U <s><image><s>"), (SETS_NONE, "U <image>\n"), (PRINTS, "U <s><image><s>")],
)
def test_a_template_that_takes_text_is_given_text(made, tmp_path, template, first):
    model = processor_of(made, tmp_path, template)
    assert asked(*model) == f"{first}{QUESTION} E A "
    assert asked(*model, TWO_TURNS) == f"{first}One? E A Yes. E U Two? E A "


def test_a_prompt_with_another_number_of_pictures_is_told(made, tmp_path):
    model = processor_of(made, tmp_path, SETS_IT)
    for question, images, message in [
        (QUESTION, 0, "template of this model writes 1 picture.*0 were given"),
        ("<image> what?", 1, "1 picture.*holds <image> 2 time"),
    ]:
        with pytest.raises(PromptError, match=message):
            asked(*model, [(question, None)], images)


def test_joycaption_gets_the_system_prompt_of_its_card(made, tmp_path):
    template = SETS_IT.replace("<s><image><s>", "<|reserved_special_token_70|><image>")
    model = processor_of(made, tmp_path, template)
    assert asked(*model) == (
        f"S You are a helpful image captioner. E U <|reserved_special_token_70|><image>{QUESTION} "
        "E A "
    )


def test_which_template_of_text_comes_first(made, tmp_path):
    """The processor's own, what others were trained with, and the tokenizer's, in this order."""
    known = processor_of(made, tmp_path, None, tokenizers=SETS_NONE)
    assert prompt_style(*known) == "vicuna_v1"
    unknown = processor_of(made, tmp_path, None, tokenizers=SETS_NONE, vocab_size=64_000)
    assert asked(*unknown) == f"U <image>\n{QUESTION} E A "
    own = processor_of(made, tmp_path, SETS_NONE, tokenizers=SETS_IT)
    assert asked(*own).startswith("U <image>\n")


def test_a_first_token_that_the_template_writes_is_not_added_again(made, tmp_path):
    """Llama 3's templates begin with it, and tokenizers add it."""
    processor, config = processor_of(made, tmp_path, "{{ bos_token }}" + SETS_NONE)
    text, picture = asked(processor, config), Image.new("RGB", (SIDE, SIDE))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    stock = processor.apply_chat_template(
        [{"role": "user", "content": content}], return_tensors="pt", **options
    )["input_ids"]
    assert text.startswith("<s>") and stock[0].tolist().count(1) == 1
    assert encode(processor, [picture], [text])["input_ids"].equal(stock)
    count = (stock == config.image_token_id).sum().item()
    assert encode_text(processor, text, count).equal(stock)


LLAMA_3 = (
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def test_a_llama_3_without_a_template_is_prompted_as_llama_3_and_nobody_else(made, tmp_path):
    """By the size of its vocabulary, or by its token."""
    assert asked(*processor_of(made, tmp_path, None, vocab_size=128_256)) == LLAMA_3
    message = "not known how a llava on llama was prompted.*chat_template.jinja"
    with pytest.raises(ModelError, match=message):
        processor_of(made, tmp_path, None, vocab_size=64_000)
    source = tmp_path / "source"
    shutil.copytree(made, source)
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.add_tokens(["<|start_header_id|>"])
    tokenizer.save_pretrained(source)
    assert asked(*processor_of(source, tmp_path, None)) == LLAMA_3


def test_the_picture_stands_at_the_models_own_token(made, tmp_path):
    """JoyCaption's is one of Llama 3's reserved tokens."""
    source = tmp_path / "source"
    shutil.copytree(made, source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if "<image>" not in str(value)}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    template = SETS_IT.replace("<image>", "<unk>")
    processor, config = processor_of(source, tmp_path, template, image_token_id=0)
    text = asked(processor, config)
    assert text == f"U <s><unk><s>{QUESTION} E A "
    ids = encode(processor, [Image.new("RGB", (SIDE, SIDE))], [text])["input_ids"]
    assert (ids == 0).sum().item() == 16
