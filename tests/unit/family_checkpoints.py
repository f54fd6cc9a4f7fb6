"""Small random models of the LLaVA family, in folders as they are published.

Every part is transformers' own: the classes, the shapes in small, the processors with all their
settings, and the chat templates, in the form that the models on the hub have. Answers mean nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaProcessor,
    VipLlavaConfig,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from llava_lessons.tiny.build import build_tokenizer
from llava_nb.image_processor import (
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    OnevisionPictures,
)
from llava_nb.loading.source import build_config

SiglipImageProcessor = get_image_processor_class_from_name("SiglipImageProcessorPil") or (
    get_image_processor_class_from_name("SiglipImageProcessor")
)
SIDE, PATCH = 28, 7
PATCHES = (SIDE // PATCH) ** 2
NEXT_GRID = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
ONEVISION_GRID = [[28 * rows, 28 * columns] for rows in range(1, 7) for columns in range(1, 7)]
TEMPLATES = Path(__file__).parents[1] / "data" / "templates.json"
WORDS = [TEMPLATES.read_text()]  # enough for 512 tokens
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 4}

# As the published templates have it: all pictures of a message, then all text.
_PARTS = (
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}SPACE"
    "{% endfor %}"
)
_EACH = "{% for message in messages %}"


def _template(before: str, after: str, space: str, asked: str) -> str:
    asked = "{% if add_generation_prompt %}{{ '" + asked + "' }}{% endif %}" if asked else ""
    return _EACH + before + _PARTS.replace("SPACE", space) + after + "{% endfor %}" + asked


VICUNA = _template("{{ message['role'].upper() + ': ' }}", "", "{{ ' ' }}", "ASSISTANT:")
MISTRAL = _template(
    "{% if message['role'] == 'user' %}{{ '[INST] ' }}{% else %}{{ ' ' }}{% endif %}",
    "{% if message['role'] == 'user' %}{{ ' [/INST]' }}{% else %}{{ '</s> ' }}{% endif %}",
    "",
    "",
)
HUMAN = _template(
    "{{ '###' + ('Human' if message['role'] == 'user' else 'Assistant') + ': ' }}", "", "",
    "###Assistant:",
)  # fmt: skip
CHATML = _template(
    "{{ '<|im_start|>' + message['role'] + '\\n' }}", "{{ '<|im_end|>\\n' }}", "",
    "<|im_start|>assistant\\n",
)  # fmt: skip
# LLaVA-Interleave's marks what training looks at, and writes no line end after a turn.
INTERLEAVE = (
    _EACH + "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{% if message['role'] == "
    "'assistant' %}{% generation %}{{ '\\n' + part['text'] }}{% endgeneration %}{% else %}"
    "{{ '\\n' + part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_HEAD = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
_HEADED = "<|start_header_id|>{}<|end_header_id|>\n\n"
_ASKED = "<|start_header_id|>assistant<|end_header_id|>\\n\\n"
LLAMA_3_NEXT = _template("{{ " + _HEAD + " }}", "{{ '<|eot_id|>' }}", "", _ASKED)
# Llama 3's own, which knows no pictures; JoyCaption's, which takes text and sets the picture.
LLAMA_3 = (
    _EACH + "{{ (bos_token if loop.first else '') + " + _HEAD + " + message['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}{{ '" + _ASKED + "' }}"
)
SEEN = "<|reserved_special_token_{}|>"
_SEEN = "".join(map(SEEN.format, (70, 69, 71)))
JOYCAPTION = (
    "{% set first = namespace(user=true) %}" + _EACH + "{% if message['role'] == 'system' %}"
    "{{ " + _HEAD + " + 'Today Date: 26 July 2024\\n\\n' + message['content'] + '<|eot_id|>' }}"
    "{% elif message['role'] == 'user' and first.user %}{% set first.user = false %}"
    "{{ " + _HEAD + " + '" + _SEEN + "' + message['content'].replace('" + SEEN.format(69) + "', '')"
    ".lstrip() + '<|eot_id|>' }}{% else %}{{ " + _HEAD + " + message['content'] + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '" + _ASKED + "' }}{% endif %}"
)


@dataclass(frozen=True)
class Member:
    """A model of the family: its config's class, the chat template, how a question then reads.

    `text`, `tower` and `more` are what the config says beside the defaults in `family_config`.
    `tokens` are in the tokenizer beside those of the embedded model, the picture's first if it is
    one of them; `tokenizers` is the template that the tokenizer brings along.
    """

    kind: type
    text: dict[str, Any]
    template: str
    asked: str
    tower: dict[str, Any]
    more: dict[str, Any]
    tokens: tuple[str, ...] = ()
    tokenizers: str | None = None

    @property
    def image_token(self) -> str:
        return self.tokens[0] if "reserved" in "".join(self.tokens[:1]) else "<image>"


_LLAMA = {"model_type": "llama", "num_key_value_heads": 4}
_MISTRAL = {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}
_QWEN = {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True}
_LLAMA_3 = _LLAMA | {"num_key_value_heads": 2}
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CLIP = {"model_type": "clip_vision_model", "num_hidden_layers": 8}
_SIGLIP = {"model_type": "siglip_vision_model", "num_hidden_layers": 8, "vision_use_head": False}
_FULL = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)

FAMILY = {
    "llava-1.5": Member(
        LlavaConfig, _LLAMA, VICUNA, _SYSTEM + "USER: <image>\n{} ASSISTANT:", _CLIP, {}
    ),
    "bakllava": Member(LlavaConfig, _MISTRAL, MISTRAL, "[INST] <image>\n{} [/INST]", _CLIP, {}),
    "vip-llava": Member(
        VipLlavaConfig,
        _LLAMA,
        HUMAN,
        "###Human: <image>\n{}###Assistant:",
        {**_CLIP, "num_hidden_layers": 10},
        {},
    ),
    "llava-1.6-vicuna": Member(
        LlavaNextConfig,
        _LLAMA,
        VICUNA,
        "USER: <image>\n{} ASSISTANT:",
        _CLIP,
        {"image_grid_pinpoints": NEXT_GRID},
    ),
    "llava-1.6-mistral": Member(
        LlavaNextConfig,
        _MISTRAL,
        MISTRAL,
        "[INST] <image>\n{} [/INST]",
        _CLIP,
        {"image_grid_pinpoints": NEXT_GRID},
    ),
    "llava-onevision": Member(
        LlavaOnevisionConfig,
        _QWEN,
        CHATML,
        "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n",
        _SIGLIP,
        {"image_grid_pinpoints": ONEVISION_GRID, "vision_aspect_ratio": "anyres_max_9", **_FULL},
    ),
    "llava-interleave": Member(
        LlavaConfig,
        _QWEN | {"num_key_value_heads": 4},
        INTERLEAVE,
        "<|im_start|>user <image>\n{}<|im_end|><|im_start|>assistant\n",
        _SIGLIP,
        _FULL,
        tokens=("<|im_start|>", "<|im_end|>"),
    ),
    "joycaption": Member(
        LlavaConfig,
        _LLAMA_3,
        JOYCAPTION,
        _HEADED.format("system")
        + "Today Date: 26 July 2024\n\nYou are a helpful image captioner.<|eot_id|>"
        + _HEADED.format("user")
        + _SEEN
        + "{}<|eot_id|>"
        + _HEADED.format("assistant"),
        _SIGLIP | {"vision_use_head": True},
        _FULL | {"vision_feature_layer": -2},
        tokens=(*map(SEEN.format, (69, 70, 71)), *_HEADERS),
    ),
    "llava-llama-3": Member(
        LlavaConfig,
        _LLAMA_3,
        "",
        _HEADED.format("user") + "<image>\n{}<|eot_id|>" + _HEADED.format("assistant"),
        _CLIP,
        {},
        tokens=_HEADERS,
        tokenizers=LLAMA_3,
    ),
    "llama3-llava-next": Member(
        LlavaNextConfig,
        _LLAMA_3,
        LLAMA_3_NEXT,
        _HEADED.format("user") + "<image>\n{}<|eot_id|>" + _HEADED.format("assistant"),
        _CLIP,
        {"image_grid_pinpoints": NEXT_GRID},
        tokens=_HEADERS,
    ),
    "tiny-llava": Member(
        LlavaConfig,
        _LLAMA | {"num_key_value_heads": 2},
        "",
        _SYSTEM + "USER: <image>\n{} ASSISTANT:",
        _CLIP,
        {},
    ),
}


@dataclass(frozen=True)
class Sizes:
    """The square that a tower takes, in pixels, its patches, and what else a config is to say.

    As it is, a picture is 4 x 4 patches.
    """

    side: int = SIDE
    patch: int = PATCH
    text: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] = field(default_factory=dict)

    def grid(self, grid: list[list[int]]) -> list[list[int]]:
        """Return a grid for pictures of SIDE pixels as one of `side`."""
        return [[length * self.side // SIDE for length in each] for each in grid]


def family_config(name: str, vocabulary: int, sizes: Sizes = Sizes()) -> Any:
    """The config of a member: the language model and the tower 64 wide."""
    member = FAMILY[name]
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        **ENDS,
        **member.text,
        **sizes.text,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "image_size": sizes.side,
        "patch_size": sizes.patch,
        **member.tower,
        **sizes.tower,
    }
    is_own = member.image_token != "<image>"
    image = vocabulary - len(member.tokens) if is_own else 3
    raw = {"text_config": text, "vision_config": vision, "image_token_index": image, **member.more}
    if "image_grid_pinpoints" in raw:
        raw["image_grid_pinpoints"] = sizes.grid(raw["image_grid_pinpoints"])
    return build_config({"model_type": member.kind.model_type, **raw})


def family_processor(name: str, config: Any, tokenizer: Any, sizes: Sizes = Sizes()) -> Any:
    """The processor of a member, as whoever publishes it builds it, without torchvision."""
    template = FAMILY[name].template or None
    side = {"height": sizes.side, "width": sizes.side}
    fields = {"tokenizer": tokenizer, "chat_template": template}
    fields |= {"image_token": FAMILY[name].image_token}
    if config.model_type == "llava_onevision":
        pixels = LlavaOnevisionImageProcessorPil(
            size=side,
            image_grid_pinpoints=sizes.grid(ONEVISION_GRID),
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        patches = (sizes.side // sizes.patch) ** 2
        fields |= {"num_image_tokens": patches, "vision_feature_select_strategy": "full"}
        return OnevisionPictures(image_processor=pixels, **fields)
    if "siglip" in config.vision_config.model_type:
        pixels = SiglipImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        fields |= {"patch_size": sizes.patch, "num_additional_image_tokens": 0}
        return LlavaProcessor(pixels, vision_feature_select_strategy="full", **fields)
    fields |= {"patch_size": sizes.patch, "num_additional_image_tokens": 1}
    fields |= {"vision_feature_select_strategy": "default"}
    made = {"size": {"shortest_edge": sizes.side}, "crop_size": side}
    if config.model_type == "llava_next":
        pixels = LlavaNextImageProcessorPil(image_grid_pinpoints=sizes.grid(NEXT_GRID), **made)
        return LlavaNextProcessor(image_processor=pixels, **fields)
    pixels = LlavaImageProcessorPil(do_pad=True, **made)
    return LlavaProcessor(image_processor=pixels, **fields)


def make_member(
    name: str,
    folder: Path,
    *,
    vocabulary: int = 512,
    sizes: Sizes = Sizes(),
    readable: bool = False,
) -> Any:
    """Write a random model of the family to `folder`; return its processor, as it was saved.

    Its answers hardly ever end, and may hold any byte; with `readable` most come to an end, and are
    of letters and signs.
    """
    member = FAMILY[name]
    tokenizer = build_tokenizer(WORDS, vocabulary - len(member.tokens))
    tokenizer.add_tokens([AddedToken(each, special=True) for each in member.tokens], True)
    if member.image_token != "<image>":  # then only the processor and the config know of it
        tokenizer.save_pretrained(folder)
        about = json.loads((folder / "tokenizer_config.json").read_text())
        about = {key: value for key, value in about.items() if "<image>" not in str(value)}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    config = family_config(name, vocabulary, sizes)
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    torch.manual_seed(7)
    network = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in network.parameters():  # larger than transformers' own, so that words differ
            if weight.dim() > 1:
                weight.normal_(std=0.3)
        if readable:
            head = network.get_output_embeddings().weight
            end = 1.8 * head[ENDS["eos_token_id"]]
            head[[number for number in range(vocabulary) if not _is_text(tokenizer, number)]] = 0
            head[ENDS["eos_token_id"]] = end
    for key, value in ENDS.items():
        setattr(network.generation_config, key, value)
    processor = family_processor(name, config, tokenizer, sizes)
    network.save_pretrained(folder)
    about = json.loads((folder / "config.json").read_text())
    about.pop("tie_word_embeddings", None)  # on the hub it is in the text's part or nowhere
    (folder / "config.json").write_text(json.dumps(about))
    processor.save_pretrained(folder)
    if member.tokenizers:  # where files of that time have it
        about = json.loads((folder / "tokenizer_config.json").read_text())
        about["chat_template"] = member.tokenizers
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return processor


# The parts of LLaVA-OneVision at their true sizes, as its files say them.
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152128,
}
QWEN_HALF_B = QWEN_7B | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 152000,
}


def make_true_shape(name: str, folder: Path) -> None:
    """Write a random LLaVA-OneVision 0.5B to `folder`, in half precision as on the hub: 1.7 GiB.

    The tokenizer has 512 of the 152,000 tokens; no other is ever said.
    """
    side = {"height": 384, "width": 384}
    text = QWEN_HALF_B | ENDS
    raw = {"text_config": text, "vision_config": SIGLIP, "image_token_index": 3, **_FULL}
    config = build_config({"model_type": FAMILY[name].kind.model_type, **raw})
    torch.manual_seed(5)
    network = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        network.get_input_embeddings().weight[512:] = 0
    for key, value in ENDS.items():
        setattr(network.generation_config, key, value)
    network.save_pretrained(folder)
    pixels = LlavaOnevisionImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    OnevisionPictures(
        pixels,
        build_tokenizer(WORDS, 512),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    ).save_pretrained(folder)


def _is_text(tokenizer: Any, number: int) -> bool:
    """Whether a token can be in a text: not a mark, as for a picture, nor a byte without a font."""
    text = tokenizer.decode([number])
    is_mark = number in tokenizer.all_special_ids
    return text.replace("\n", "").isprintable() and "\ufffd" not in text and not is_mark
