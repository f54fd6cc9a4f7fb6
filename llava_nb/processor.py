"""What stands before the model: tokenizer, image processor, and the conversation that it knows.

A wrong field here never raises; it gives other pixels, other positions, or 575 image tokens for
576 features. So every field that matters is set from the model's config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BatchFeature,
    ImageProcessingMixin,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from . import prompts
from .errors import ModelError
from .prompts import DEFAULT_STYLE, IMAGE_TOKEN, STYLES, chat_template
from .spelling import Spelling

# The PIL image processors give the pixels that models were trained with, torchvision's do not.
try:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )
except ImportError:  # transformers before 5.3 has them under the plain names
    from transformers.models.llava.image_processing_llava import (
        LlavaImageProcessor as LlavaImageProcessorPil,
    )
    from transformers.models.llava_next.image_processing_llava_next import (
        LlavaNextImageProcessor as LlavaNextImageProcessorPil,
    )
    from transformers.models.llava_onevision.image_processing_llava_onevision import (
        LlavaOnevisionImageProcessor as LlavaOnevisionImageProcessorPil,
    )


def build_processor(
    folder: str,
    config: PretrainedConfig,
    *,
    pixels: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    spelling: Spelling | None = None,
) -> ProcessorMixin:
    """Return the processor with every field that matters taken from the config.

    Several published copies lack `patch_size` or `num_additional_image_tokens`, and then
    count 575 image tokens for 576 features. Batches are padded on the left: on the
    right, the shorter rows' answers change.

    `pixels` is the folder with the image processor's settings, if not the same;
    `tokenizer` and `spelling` are those of a checkpoint in the original layout. Raises
    ModelError if the tokenizer has no token for pictures where the config says, if the image
    processor makes no pixels that the tower takes, or if nobody knows the model's conversation.
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
    build = {"llava_next": _next, "llava_onevision": _onevision}.get(config.model_type, _whole)
    processor = build(
        pixels or folder,
        config,
        spelling,
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


# --- Pixels -----------------------------------------------------------------------------------


def _whole(
    pixels: str, config: PretrainedConfig, spelling: Spelling | None, **fields: Any
) -> LlavaProcessor:
    """Return the processor of a model that sees a picture once."""
    return LlavaProcessor(
        image_processor=_image_processor(pixels, config, spelling),
        patch_size=config.vision_config.patch_size,
        num_additional_image_tokens=_class_tokens(config),
        **fields,
    )


def _class_tokens(config: PretrainedConfig) -> int:
    return int("clip" in config.vision_config.model_type)  # SigLIP has none


def _image_processor(pixels: str, config: PretrainedConfig, spelling: Spelling | None) -> Any:
    """Return the image processor that treats pictures as the model was trained.

    That is the one that the folder names, with one exception. LLaVA-1.5, BakLLaVA and ViP-LLaVA
    were published with CLIP's own, which crops, but were trained on pictures that are padded to
    a square (`--image_aspect_ratio pad`). In the original layout the config tells.
    """
    side = config.vision_config.image_size
    square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if spelling:
        return LlavaImageProcessorPil.from_pretrained(pixels, do_pad=spelling.padded, **square)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(pixels)
    on_clip = _class_tokens(config) == 1
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    name = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name or "")
    name = name or ("CLIP" if on_clip else "Siglip")
    is_cropped = name in ("CLIP", "Llava") and "height" not in _size(settings)
    told = settings.get("do_pad") if name == "Llava" else None  # in CLIP's it means another thing
    if told or (told is None and on_clip and is_cropped):
        return LlavaImageProcessorPil.from_pretrained(pixels, do_pad=True, **square)
    stretched = {"size": square["crop_size"]}
    try:
        kind = get_image_processor_class_from_name(f"{name}ImageProcessorPil")
        kind = kind or get_image_processor_class_from_name(f"{name}ImageProcessor")
        # As published; else, if that is not the tower's size, in the tower's.
        for sizes in ({}, square if settings.get("do_center_crop") else stretched):
            image_processor = kind.from_pretrained(pixels, **sizes)
            made = _made(image_processor, side)
            if made == (1, 3, side, side):
                return image_processor
        reason = f"makes pixels of shape {made}"
    except Exception as error:  # of settings that are its author's choice
        reason = f"cannot be used ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    raise ModelError(
        f"The image processor that {pixels} names, {name}ImageProcessor, {reason}, and the vision "
        f"tower takes (1, 3, {side}, {side}). Fetch preprocessor_config.json again; if it is as "
        "published, load() does not read this model."
    )


def _size(settings: dict[str, Any]) -> dict[str, int]:
    """Return the size in an image processor's settings; an old file has one number."""
    size = settings.get("size")
    return size if isinstance(size, dict) else {}


def _made(image_processor: Any, side: int) -> tuple[int, ...]:
    """Return the shape of what becomes of a picture that is no square."""
    picture = Image.new("RGB", (side + side // 2, side))
    return tuple(image_processor(picture, return_tensors="pt")["pixel_values"].shape)


class OnevisionPictures(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without its half for videos, which needs torchvision.

    transformers goes by the names of the arguments: what is not among them is not asked for.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **fields: Any) -> None:
        super().__init__(image_processor, tokenizer, video_processor=None, **fields)


# In saved folders the name stands for the class that transformers knows.
OnevisionPictures.__name__ = LlavaOnevisionProcessor.__name__


def _next(
    pixels: str, config: PretrainedConfig, spelling: Spelling | None, **fields: Any
) -> LlavaNextProcessor:
    """Return the processor of a LLaVA-NeXT, which cuts a picture into tiles.

    How many tokens that makes is counted by the processor from its own fields and by the model
    from its config. `do_pad` gives pictures of a batch the same number of tiles.
    """
    side = config.vision_config.image_size
    image_processor = LlavaNextImageProcessorPil.from_pretrained(
        pixels,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=config.image_grid_pinpoints,
        do_pad=True,
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        patch_size=config.vision_config.patch_size,
        num_additional_image_tokens=_class_tokens(config),
        **fields,
    )


def _onevision(
    pixels: str, config: PretrainedConfig, spelling: Spelling | None, **fields: Any
) -> LlavaOnevisionProcessor:
    """Return the processor of a LLaVA-OneVision; it takes the tower's positions as a number."""
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    image_processor = LlavaOnevisionImageProcessorPil.from_pretrained(
        pixels,
        size={"height": side, "width": side},
        image_grid_pinpoints=config.image_grid_pinpoints,
        do_pad=True,
    )
    return OnevisionPictures(
        image_processor=image_processor,
        num_image_tokens=(side // patch) ** 2,
        vision_aspect_ratio=config.vision_aspect_ratio,
        **fields,
    )


def encode(
    processor: ProcessorMixin,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    spelling: Spelling | None = None,
) -> BatchFeature:
    """Return the model's inputs for prompts and their pictures, in the order of both.

    ids and mask are (prompts, tokens), padded on the left; pixels are (pictures, 3, side,
    side) in float32. Where pictures are cut into tiles they are (pictures, tiles, 3, side,
    side), and what else the model wants to know of them comes with them.
    """
    if spelling is not None:
        prompts = [spelling.for_tokenizer(prompt) for prompt in prompts]
    return processor(
        images=[shrink(picture, processor, spelling) for picture in pictures] or None,
        text=list(prompts),
        padding=len(prompts) > 1,
        return_tensors="pt",
        **_special_tokens(processor, prompts[0], spelling),
    )


def encode_text(
    processor: ProcessorMixin, prompt: str, picture_tokens: int, spelling: Spelling | None = None
) -> Tensor:
    """Return the ids, (1, tokens), that `encode` gives for a picture of that many tokens.

    The processors of transformers write the picture's token as often into the text; which
    picture it is makes no other difference to the ids.
    """
    if spelling is not None:
        prompt = spelling.for_tokenizer(prompt)
    more = _special_tokens(processor, prompt, spelling)
    prompt = prompt.replace(processor.image_token, processor.image_token * picture_tokens)
    return processor.tokenizer(prompt, return_tensors="pt", **more)["input_ids"]


def _special_tokens(
    processor: ProcessorMixin, prompt: str, spelling: Spelling | None
) -> dict[str, bool]:
    """Tell the tokenizer to add no first token where the chat template wrote it (Llama 3)."""
    first = processor.tokenizer.bos_token
    is_there = spelling is None and first is not None and prompt.startswith(first)
    return {"add_special_tokens": False} if is_there else {}


# --- Memory -----------------------------------------------------------------------------------

# transformers' image processors copy a picture some times over, in its own size or, padded to a
# square, in a far larger one: 12 GiB for 800 x 30,000 pixels. Pillow does in place what they do.
_BAND = 256  # rows that are resized at once
_STRIP = 4096  # pixels of the longer side of a strip, 10 times what a model looks at
_TILED = 24_000_000  # pixels of a picture that is cut into tiles, a photograph of today


def shrink(
    picture: Image.Image, processor: ProcessorMixin, spelling: Spelling | None = None
) -> Image.Image:
    """Return the picture in the size that the model looks at, so that it takes little memory.

    The pixels that the processor makes of it are bit for bit those that it makes of the whole
    picture, but for strips more than 4,096 pixels long (padded) or 64 times as long as wide
    (cropped) and, where pictures are cut into tiles, for more than 24 megapixels.
    """
    pixels = processor.image_processor
    if not isinstance(processor, LlavaProcessor) or not pixels.do_resize:
        factor = math.ceil(math.sqrt(picture.width * picture.height / _TILED))
        return picture.reduce(factor) if factor > 1 else picture
    if "height" in pixels.size:
        return picture.resize((pixels.size["width"], pixels.size["height"]), pixels.resample)
    side = pixels.size["shortest_edge"]
    if isinstance(pixels, LlavaImageProcessorPil) and pixels.do_pad:
        return _padded(picture, side, tuple(int(mean * 255) for mean in pixels.image_mean))
    return _shortest_edge(picture, side, pixels.resample, across_first=spelling is not None)


def _padded(picture: Image.Image, side: int, colour: tuple[int, ...]) -> Image.Image:
    """Pad to a square with a colour, the picture in the middle, and resize that to `side`.

    Pillow resizes a square across, then down. So it is made some rows at a time, each as wide as
    the square, and one column of the result's width is resized down.
    """
    longest, shortest = max(picture.size), min(picture.size)
    if longest > _STRIP and longest > 4 * shortest:
        picture = picture.reduce(math.ceil(longest / _STRIP))
    (width, height), edge = picture.size, max(picture.size)
    column = Image.new("RGB", (side, edge), colour)
    for top in range(0, height, _BAND):
        band = Image.new("RGB", (edge, min(_BAND, height - top)), colour)
        rows = picture.crop((0, top, width, top + band.height))
        band.paste(rows, ((edge - width) // 2, 0))
        across = band.resize((side, band.height), Image.Resampling.BICUBIC)
        column.paste(across, (0, (edge - height) // 2 + top))
    return column.resize((side, side), Image.Resampling.BICUBIC)


def _shortest_edge(
    picture: Image.Image, side: int, resample: int, *, across_first: bool
) -> Image.Image:
    """Resize the shorter edge to `side`; of a strip the middle is enough, the rest is cropped.

    `across_first`: first across, then down, as Pillow did before 13. It goes down first where a
    picture is tall (python-pillow#9549), and rounding to 8 bits in between makes other pixels
    than the models in the original layout were trained with.
    """
    width, height = picture.size
    if max(width, height) > 64 * min(width, height):
        keep = 64 * min(width, height)  # an even number is cut off, so that the middle stays it
        left, top = (max(length - keep, 0) // 2 for length in picture.size)
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    shorter = min(width, height)
    to = (int(side * width / shorter), int(side * height / shorter))
    if across_first:
        picture = picture.resize((to[0], height), resample)
    return picture.resize(to, resample)


# --- Conversations ----------------------------------------------------------------------------

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
    """Return the conversation style of our own, or None for the processor's chat template.

    LLaVA-1.5 is prompted as it was trained: its published template leaves out the system
    sentence. Every other model is prompted with the template that it was published with.
    """
    template, token = processor.chat_template, processor.image_token
    for style in STYLES:
        if template == chat_template(style, f"{token}\n"):
            return style
    asked = f"USER: {token}\n{_QUESTION} ASSISTANT:"
    is_llava = config is None or config.model_type == "llava"
    if is_llava and (_one_turn(processor, template) or "").endswith(asked):
        return DEFAULT_STYLE
    return None


def prompt_text(
    processor: ProcessorMixin,
    turns: Sequence[tuple[str, str | None]],
    images: int,
    *,
    style: str | None,
    spelling: Spelling | None = None,
) -> str:
    """Return the exact text that the model is given: questions and answers, the last None.

    `images` pictures stand in the first question. Raises PromptError unless the text has one
    image token for each.
    """
    token = IMAGE_TOKEN if spelling else processor.image_token
    turns = [(prompts.check_question(question), answer) for question, answer in turns]
    if style is not None:
        picture = spelling.picture if spelling else IMAGE_TOKEN
        first = (prompts.with_image(turns[0][0], images, picture), turns[0][1])
        text = prompts.build([first, *turns[1:]], style).replace(IMAGE_TOKEN, token)
    else:
        messages, shown = [], [{"type": "image"}] * images
        for question, answer in turns:
            content = [*shown, {"type": "text", "text": question}]
            messages.append({"role": "user", "content": content})
            if answer is not None:
                given = [{"type": "text", "text": answer}]
                messages.append({"role": "assistant", "content": given})
            shown = []
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
    prompts.check_images(text, images, token)
    return text


def _find_template(folder: str, processor: ProcessorMixin, config: PretrainedConfig) -> str:
    """Return the chat template of a model, such that it takes parts and writes the picture once.

    The processor's own comes first. The tokenizer's is often the language model's, which knows
    no pictures; so before that, the conversation which the model was trained with, if it is
    known. In another form than its own a model answers all the same, only worse; so an unknown
    one is not guessed. Raises ModelError.
    """
    about, _ = ProcessorMixin.get_processor_dict(folder)
    published, tokenizers = about.get("chat_template"), processor.tokenizer.chat_template
    style = _trained_with(processor.tokenizer, config)
    return (
        _taking_parts(processor, published, "", f"{processor.image_token}\n")
        or _taking_parts(processor, tokenizers, "")
        or (style and chat_template(style, f"{processor.image_token}\n"))
        or _taking_parts(processor, tokenizers, f"{processor.image_token}\n")
        or _unknown(config)
    )


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
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
        )
    except Exception:  # a template is a program; what it may raise is its author's choice
        return None
    # One for text alone fails, or writes the list as Python would.
    is_whole = text.count(processor.image_token) == text.count(_QUESTION) == 1
    return text if is_whole and "'type'" not in text else None


def _trained_with(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> str | None:
    """Return the style that a model was trained with, None if that is not known."""
    text = config.text_config
    unknown = (None, tokenizer.unk_token_id)
    marks = (_LLAMA_3, _CHATML)
    mark = next((m for m in marks if tokenizer.convert_tokens_to_ids(m) not in unknown), "")
    if not mark and text.model_type == "llama" and text.vocab_size > _VICUNA_WORDS:
        mark = _LLAMA_3 if text.vocab_size >= _LLAMA_3_WORDS else None
    return _TRAINED_WITH.get((config.model_type, text.model_type, mark))


def _unknown(config: PretrainedConfig) -> str:
    raise ModelError(
        f"The processor has no chat template with pictures, and it is not known how a "
        f"{config.model_type} on {config.text_config.model_type} was prompted when it was "
        "trained. Put its chat_template.jinja (or chat_template.json) into the folder; the "
        "model's page on the hub has it."
    )
