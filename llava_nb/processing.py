"""What stands before the model: the tokenizer, the image processor, the prompt's style.

A wrong field here never raises; it gives other pixels, other positions, or 575 image
tokens for 576 features. So every field that matters is set from the model's config.
Not covered: the text of prompts (`prompts.py`), the model (`loading.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from transformers import (
    AutoTokenizer,
    BatchFeature,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from .prompts import DEFAULT_STYLE
from .spelling import Spelling

try:  # the PIL image processor: it gives the original's pixels, torchvision's does not
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
except ImportError:  # transformers before 5.3 has it under the plain name
    from transformers.models.llava.image_processing_llava import (
        LlavaImageProcessor as LlavaImageProcessorPil,
    )


def build_processor(
    folder: str,
    config: LlavaConfig,
    *,
    pixels: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    spelling: Spelling | None = None,
) -> LlavaProcessor:
    """Return the processor with every field that matters taken from the config.

    Several published copies lack `patch_size` or `num_additional_image_tokens`, and then
    count 575 image tokens for 576 features. Batches are padded on the left: on the
    right, the shorter rows' answers change.

    `pixels` is the folder with the image processor's settings, if not the same;
    `tokenizer` and `spelling` are those of a checkpoint in the original layout.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    side = config.vision_config.image_size
    image_processor = LlavaImageProcessorPil.from_pretrained(
        pixels or folder,
        do_pad=spelling.padded if spelling else True,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        chat_template=spelling.chat_template if spelling else tokenizer.chat_template,
    )


def encode(
    processor: LlavaProcessor,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    spelling: Spelling | None = None,
) -> BatchFeature:
    """Return the model's inputs for prompts and their pictures, in the order of both.

    ids and mask are (prompts, tokens), padded on the left; pixels are (pictures, 3, side,
    side) in float32.
    """
    if spelling is not None:
        prompts = [spelling.for_tokenizer(prompt) for prompt in prompts]
    if not processor.image_processor.do_pad:
        side = processor.image_processor.size["shortest_edge"]
        pictures = [_across_first(picture, side) for picture in pictures]
    return processor(
        images=list(pictures) or None,
        text=list(prompts),
        padding=len(prompts) > 1,
        return_tensors="pt",
    )


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


def prompt_style(processor: LlavaProcessor) -> str | None:
    """Return the conversation style of our own, or None for the model's chat template.

    LLaVA-1.5's published template lacks the system sentence that it was trained with.
    """
    template = processor.chat_template
    if not template or ("USER:" in template and "ASSISTANT:" in template):
        return DEFAULT_STYLE
    return None
