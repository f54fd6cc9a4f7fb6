"""What stands before the model: tokenizer, image processor, and the conversation that it knows.

A wrong field here never raises; it gives other pixels, other positions, or 575 image tokens for
576 features. So every field that matters is set from the model's config.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BatchFeature,
    LlamaTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from . import prompts
from .errors import ModelError, PromptError
from .image_processor import LlavaImageProcessorPil as LlavaImageProcessorPil  # for importers
from .image_processor import build_with_pixels, shrink
from .prompts import DEFAULT_STYLE, IMAGE_TOKEN, STYLES, chat_template


def build_processor(
    folder: str,
    config: PretrainedConfig,
    *,
    pixels: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    spelling: Spelling | None = None,
) -> ProcessorMixin:
    """Return the processor of a model, padding on the left: on the right, answers change.

    `pixels` is the folder with the image processor's settings, if not the same; `tokenizer` and
    `spelling` are those of a checkpoint in the original layout. Raises ModelError.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if image_token is None:
        raise ModelError(
            f"The tokenizer has {len(tokenizer)} tokens, and the model reads a picture at token "
            f"{config.image_token_id}. Fetch the tokenizer's files again."
        )
    processor = build_with_pixels(
        pixels or folder,
        config,
        padded=spelling.padded if spelling else None,
        tokenizer=tokenizer,
        vision_feature_select_strategy=getattr(config, "vision_feature_select_strategy", "default"),
        image_token=image_token,
        chat_template=spelling.chat_template if spelling else None,
    )
    if processor.image_token_id != config.image_token_id:
        raise ModelError(
            f"The tokenizer in {folder} writes a picture as token {processor.image_token_id}, and "
            f"the model reads it at {config.image_token_id}. Fetch the tokenizer's files again."
        )
    if spelling is None:
        processor.chat_template = _find_template(folder, processor, config)
    return processor


def encode(
    processor: ProcessorMixin,
    pictures: Sequence[Image.Image | Sequence[Image.Image]],
    prompts: Sequence[str],
    spelling: Spelling | None = None,
) -> BatchFeature:
    """Return the model's inputs for prompts and their pictures, in the order of both.

    `pictures` has a picture for each prompt that shows one, or a list of them for every prompt. ids
    and mask are (prompts, tokens); pixels are (pictures, 3, side, side) in float32, or, where
    pictures are cut into tiles, (pictures, tiles, 3, side, side).
    """
    small = []
    for each in pictures:
        group = each if isinstance(each, Sequence) else [each]
        form = {"original": spelling is not None, "is_alone": len(group) == 1}
        if group:
            small.append([shrink(picture, processor, **form) for picture in group])
    if all(len(group) == 1 for group in small):
        small = [group[0] for group in small]  # a processor may count a list of one as several
    prompts = [spelling.for_tokenizer(prompt) if spelling else prompt for prompt in prompts]
    return processor(
        images=small or None,
        text=prompts,
        padding=len(prompts) > 1,
        return_tensors="pt",
        **_special_tokens(processor, prompts[0], spelling),
    )


def encode_text(
    processor: ProcessorMixin, prompt: str, picture_tokens: int, spelling: Spelling | None = None
) -> Tensor:
    """Return the ids, (1, tokens), that `encode` gives for a picture of that many tokens."""
    prompt = spelling.for_tokenizer(prompt) if spelling else prompt
    more = _special_tokens(processor, prompt, spelling)
    token = processor.image_token
    each = picture_tokens // max(prompt.count(token), 1)  # several have the same number each
    prompt = prompt.replace(token, token * each)
    return processor.tokenizer(prompt, return_tensors="pt", **more)["input_ids"]


def _special_tokens(
    processor: ProcessorMixin, prompt: str, spelling: Spelling | None
) -> dict[str, bool]:
    """Tell the tokenizer to add no first token where the chat template wrote it (Llama 3)."""
    first = processor.tokenizer.bos_token
    is_there = spelling is None and first is not None and prompt.startswith(first)
    return {"add_special_tokens": False} if is_there else {}


# Where no template was published: (model_type, that of the language model, a token that tells how
# it speaks) -> style. Sources: what the training scripts give as `--version` (haotian-liu/LLaVA
# scripts/v1_5/finetune.sh and SkunkworksAI/BakLLaVA scripts/finetune.sh: v1;
# WisconsinAIVision/ViP-LLaVA scripts/finetune_stage3.sh: llava_v1), for Mistral
# llava/conversation.py of haotian-liu/LLaVA, and for the others see `prompts.STYLES`.
_LLAMA_3, _CHATML = "<|start_header_id|>", "<|im_start|>"
_TRAINED_WITH = {
    ("llava", "llama", ""): DEFAULT_STYLE,
    ("llava", "llama", _LLAMA_3): "llama_3",
    ("llava", "mistral", ""): DEFAULT_STYLE,
    ("llava", "qwen2", _CHATML): "chatml",
    ("vipllava", "llama", ""): "llava_v1",
    ("llava_next", "llama", ""): DEFAULT_STYLE,
    ("llava_next", "llama", _LLAMA_3): "llava_llama_3",
    ("llava_next", "mistral", ""): "mistral_instruct",
    ("llava_onevision", "qwen2", _CHATML): "chatml",
    ("llava_onevision", "qwen2", ""): "chatml",
}
_VICUNA_WORDS, _LLAMA_3_WORDS = 32_768, 128_256  # Vicuna has 32,000 and a few
# What a model's card has as its system prompt, by what tells the model in its template:
# fancyfeast/llama-joycaption-alpha-two-hf-llava and -beta-one-hf-llava.
_SYSTEMS = {"<|reserved_special_token_70|>": "You are a helpful image captioner."}

# Before a template that takes text: makes text of parts, and adds the system prompt.
_FROM_PARTS = (
    "{% set as_text = namespace(messages=[], text='') %}"
    "{% if system and messages[0]['role'] != 'system' %}"
    "{% set as_text.messages = [{'role': 'system', 'content': system}] %}{% endif %}"
    "{% for message in messages %}{% set as_text.text = '' %}"
    "{% if message['content'] is string %}{% set as_text.text = message['content'] %}{% else %}"
    "{% for part in message['content'] %}{% set as_text.text = as_text.text + "
    "(picture if part['type'] == 'image' else part['text']) %}{% endfor %}{% endif %}"
    "{% set as_text.messages = as_text.messages + "
    "[{'role': message['role'], 'content': as_text.text}] %}{% endfor %}"
    "{% set messages = as_text.messages %}"
)
_QUESTION = "What is this?"


def prompt_style(processor: ProcessorMixin, config: PretrainedConfig | None = None) -> str | None:
    """Return the conversation style of our own, or None for the processor's chat template."""
    # LLaVA-1.5 is prompted as it was trained: its published template lacks the system sentence.
    # Every other model is prompted with the template that it was published with.
    template, token = processor.chat_template, processor.image_token
    for style in STYLES:
        if template == chat_template(style, f"{token}\n"):
            return style
    asked = f"USER: {token}\n{_QUESTION} ASSISTANT:"
    is_llava = config is None or config.model_type == "llava"
    is_as_ours = is_llava and (_one_turn(processor, template) or "").endswith(asked)
    return DEFAULT_STYLE if is_as_ours else None


def prompt_text(
    processor: ProcessorMixin,
    turns: Sequence[tuple[str, str | None]],
    images: int,
    *,
    style: str | None,
    spelling: Spelling | None = None,
) -> str:
    """Return the exact text that the model is given: questions and answers, the last None.

    `images` pictures stand in the first question. Raises PromptError unless each has one token.
    """
    token = IMAGE_TOKEN if spelling else processor.image_token
    turns = [(prompts.check_question(question), answer) for question, answer in turns]
    if style is not None:
        picture = spelling.picture if spelling else IMAGE_TOKEN
        first = (prompts.with_image(turns[0][0], images, picture), turns[0][1])
        text = prompts.build([first, *turns[1:]], style).replace(IMAGE_TOKEN, token)
    else:
        messages, pictures = [], [{"type": "image"}] * images
        for question, answer in turns:
            messages.append(("user", [*pictures, {"type": "text", "text": question}]))
            if answer is not None:
                messages.append(("assistant", [{"type": "text", "text": answer}]))
            pictures = []
        text = processor.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=True,
        )
        if text.count(token) != images and not any(token in question for question, _ in turns):
            raise PromptError(
                f"The chat template of this model writes {text.count(token)} picture(s) into this "
                f"conversation, and {images} were given. Pass one picture: ask(image, prompt)."
            )
    prompts.check_images(text, images, token)
    return text


def _find_template(folder: str, processor: ProcessorMixin, config: PretrainedConfig) -> str:
    """Return a model's chat template, such that it takes parts and writes the picture once."""
    # The processor's own comes first. The tokenizer's is often the language model's, which knows no
    # pictures; so before that comes what the model was trained with. In another conversation than
    # its own a model only answers worse; so an unknown one is not guessed.
    about, _ = ProcessorMixin.get_processor_dict(folder)
    published, tokenizers = about.get("chat_template"), processor.tokenizer.chat_template
    style, picture = _trained_with(processor.tokenizer, config), f"{processor.image_token}\n"
    template = (
        _taking_parts(processor, published, "", picture)
        or _taking_parts(processor, tokenizers, "")
        or (style and chat_template(style, picture))
        or _taking_parts(processor, tokenizers, picture)
    )
    if not template:
        raise ModelError(
            f"The processor has no chat template with pictures, and it is not known how a "
            f"{config.model_type} on {config.text_config.model_type} was prompted when it was "
            "trained. Put its chat_template.jinja (or chat_template.json) into the folder; the "
            "model's page on the hub has it."
        )
    return template


def _taking_parts(processor: ProcessorMixin, template: Any, *pictures: str) -> str | None:
    """Return the template as it is, or as one that makes text of parts, or None if neither works.

    `pictures` are what to write for a picture: nothing where the template does so of itself.
    """
    template = template.get("default") if isinstance(template, dict) else template
    if not template:
        return None
    system = next((text for mark, text in _SYSTEMS.items() if mark in template), "")
    as_text = [
        f"{{% set system, picture = {system!r}, {picture!r} %}}{_FROM_PARTS}{template}"
        for picture in pictures
    ]
    return next((each for each in (template, *as_text) if _one_turn(processor, each)), None)


def _one_turn(processor: ProcessorMixin, template: str | None) -> str | None:
    """Return a question about a picture as the template writes it, None if it does not."""
    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    message = [{"role": "user", "content": content}]
    try:
        text = processor.apply_chat_template(
            message, chat_template=template, add_generation_prompt=True
        )
    except Exception:  # a template is a program; what it may raise is its author's choice
        return None
    # One for text alone fails, or writes the list as Python would.
    is_whole = text.count(processor.image_token) == text.count(_QUESTION) == 1
    return text if is_whole and "'type'" not in text else None


def _trained_with(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> str | None:
    """Return the style that a model was trained with, None if that is not known."""
    text, unknown = config.text_config, (None, tokenizer.unk_token_id)
    known = (m for m in (_LLAMA_3, _CHATML) if tokenizer.convert_tokens_to_ids(m) not in unknown)
    mark = next(known, "")
    if not mark and text.model_type == "llama" and text.vocab_size > _VICUNA_WORDS:
        mark = _LLAMA_3 if text.vocab_size >= _LLAMA_3_WORDS else None
    return _TRAINED_WITH.get((config.model_type, text.model_type, mark))


# The authors' own layout.

MARK = "llava_nb_spelling"  # in config.json, when a model of this layout is saved in the other
_BLANKS = (" ", "\u2581")
_LLAMA_TOKENS = ("<s>", "</s>")


@dataclass(frozen=True)
class Spelling:
    """What stands for a picture, for people and for the tokenizer, and the prompt's form."""

    picture: str = IMAGE_TOKEN  # in a prompt; some models want marks round it
    token: str = "<unk>"  # what the tokenizer reads at its place
    legacy: bool = False  # whether it sets a blank after every `special` token by itself
    special: tuple[str, ...] = _LLAMA_TOKENS
    dummy_prefix: bool = True  # whether it sets one before a text
    style: str = DEFAULT_STYLE
    padded: bool = True  # whether pictures are padded to a square

    def for_tokenizer(self, prompt: str) -> str:
        """Return the prompt as the tokenizer must read it to give the original's ids."""
        # A `<unk>` that a person wrote is left out: it would be taken for a picture. The original's
        # reads piece by piece and sets a blank before each, but before a `special` token. Of a
        # whole text the tokenizer sets none inside, if not `legacy`, nor where one stands already.
        pieces = [piece.replace(self.token, "") for piece in prompt.split(IMAGE_TOKEN)]
        if self.dummy_prefix:
            for index, piece in enumerate(pieces):
                inside = index > 0 and piece and not self.legacy
                if piece.startswith(_BLANKS) or (inside and not piece.startswith(self.special)):
                    pieces[index] = f" {piece}"
        return self.token.join(pieces)

    @property
    def chat_template(self) -> str:
        """The style as a chat template that writes what the tokenizer must read."""
        return chat_template(self.style, self.for_tokenizer(f"{self.picture}\n"))

    @classmethod
    def from_mark(cls, config: dict[str, Any]) -> Spelling | None:
        """Return the spelling that a saved config carries, None for other models."""
        if MARK not in config:
            return None
        return cls(**{**config[MARK], "special": tuple(config[MARK]["special"])})


def read_spelling(folder: Path, raw: dict[str, Any], name: str) -> Spelling:
    """Return the spelling of a checkpoint in the original layout; `raw` is its config.json."""

    def read(file: str) -> dict[str, Any]:
        path = folder / file
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}

    sentencepiece = (folder / "tokenizer.model").is_file()
    added = [each["content"] for each in read("tokenizer.json").get("added_tokens", ())]
    names = f"{name} {raw.get('_name_or_path', '')}".casefold().replace("_", "-")
    marked = raw.get("mm_use_im_start_end")
    return Spelling(
        picture=f"<im_start>{IMAGE_TOKEN}<im_end>" if marked else IMAGE_TOKEN,
        token=IMAGE_TOKEN if IMAGE_TOKEN in added and not sentencepiece else "<unk>",
        legacy=bool(
            read("tokenizer_config.json").get("legacy", True)
        ),  # silent: older than the word
        special=(*_LLAMA_TOKENS, *read("added_tokens.json")),
        dummy_prefix=sentencepiece,
        # Only the name tells the conversation, as in the original's `llava/serve/cli.py`, but with
        # "user" for Vicuna, which is what its training scripts say (`--version v1`).
        style="llava_llama_2" if "llama-2" in names else DEFAULT_STYLE,
        padded=raw.get("image_aspect_ratio") == "pad",
    )


def build_tokenizer(folder: Path, spelling: Spelling) -> PreTrainedTokenizerBase:
    """Return the tokenizer, built by its class: `AutoTokenizer` gives another one, silently.

    Raises ModelError if its file is missing or damaged.
    """
    try:
        if (folder / "tokenizer.model").is_file():
            tokenizer = LlamaTokenizer.from_pretrained(
                folder, legacy=spelling.legacy, padding_side="left"
            )
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    except Exception as error:
        # sentencepiece and tokenizers raise RuntimeError, TypeError and bare Exception.
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"The tokenizer in {folder} cannot be read ({reason}). tokenizer.model (or "
            "tokenizer.json) is missing or damaged: fetch it again."
        ) from error
    tokenizer.pad_token = tokenizer.eos_token  # LLaVA's own is `<unk>`, the picture's
    return tokenizer
