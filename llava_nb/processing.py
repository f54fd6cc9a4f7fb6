"""What stands before the model: the tokenizer, the image processor, the prompt's style.

A wrong field here never raises; it gives other pixels, other positions, or 575 image
tokens for 576 features. So every field that matters is set from the model's config.
Not covered: models that cut pictures into tiles (`tiles.py`), which conversation a model is
prompted with (`templates.py`), the text of prompts (`prompts.py`), the model (`loading.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BatchFeature,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from .errors import ModelError
from .sizes import TILED
from .spelling import Spelling
from .templates import published_template, settle_template, style_of
from .tiles import build_tiled

try:  # the PIL image processor: it gives the original's pixels, torchvision's does not
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
except ImportError:  # transformers before 5.3 has it under the plain name
    from transformers.models.llava.image_processing_llava import (
        LlavaImageProcessor as LlavaImageProcessorPil,
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
    ModelError if the tokenizer has no token for pictures where the config says.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    build = build_tiled if config.model_type in TILED else _build_whole
    processor = build(
        pixels or folder,
        config,
        tokenizer=tokenizer,
        vision_feature_select_strategy=getattr(config, "vision_feature_select_strategy", "default"),
        image_token=_image_token(tokenizer, config),
        chat_template=(
            spelling.chat_template if spelling else published_template(folder, tokenizer)
        ),
        **({} if spelling is None else {"do_pad": spelling.padded}),
    )
    if processor.image_token_id != config.image_token_id:
        raise ModelError(
            f"The tokenizer in {folder} writes a picture as token {processor.image_token_id}, and "
            f"the model reads it at {config.image_token_id}. Fetch the tokenizer's files again."
        )
    if spelling is None:
        settle_template(processor, config)
    return processor


def _image_token(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> str:
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if token is None:
        raise ModelError(
            f"The tokenizer has {len(tokenizer)} tokens, and the model reads a picture at token "
            f"{config.image_token_id}. Fetch the tokenizer's files again."
        )
    return token


def _build_whole(
    pixels: str, config: PretrainedConfig, *, do_pad: bool = True, **fields: Any
) -> LlavaProcessor:
    """Return the processor of a model that sees a picture once, padded to a square.

    So LLaVA-1.5, BakLLaVA and ViP-LLaVA were trained (`--image_aspect_ratio pad`).
    """
    side = config.vision_config.image_size
    image_processor = LlavaImageProcessorPil.from_pretrained(
        pixels,
        do_pad=do_pad,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    return LlavaProcessor(
        image_processor=image_processor,
        patch_size=config.vision_config.patch_size,
        num_additional_image_tokens=int("clip" in config.vision_config.model_type),  # its class
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
    if isinstance(processor, LlavaProcessor) and not processor.image_processor.do_pad:
        side = processor.image_processor.size["shortest_edge"]
        pictures = [_across_first(picture, side) for picture in pictures]
    return processor(
        images=list(pictures) or None,
        text=list(prompts),
        padding=len(prompts) > 1,
        return_tensors="pt",
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
    token = processor.image_token
    prompt = prompt.replace(token, token * picture_tokens)
    return processor.tokenizer(prompt, return_tensors="pt")["input_ids"]


def _across_first(picture: Image.Image, side: int) -> Image.Image:
    """Resize the shorter edge to `side`, first across, then down, as Pillow did before 13.

    Pillow 13 goes down first where a picture is tall (python-pillow#9549), and rounding to
    8 bits in between makes other pixels than the model was trained with. Where pictures are
    padded to a square this does not arise.
    """
    width, height = picture.size
    if height <= width:
        return picture
    tall = int(side * height / width)
    across = picture.resize((side, height), Image.Resampling.BICUBIC)
    return across.resize((side, tall), Image.Resampling.BICUBIC)


def prompt_style(processor: ProcessorMixin, config: PretrainedConfig | None = None) -> str | None:
    """Return the conversation style of our own, or None for the model's chat template.

    The rules: `templates.py`. Raises ModelError where neither is known.
    """
    return style_of(processor, config)
