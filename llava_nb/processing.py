"""What stands before the model: the tokenizer, the image processor, the prompt's style.

A wrong field here never raises; it gives other pixels, other positions, or 575 image
tokens for 576 features. So every field that matters is set from the model's config.
Not covered: the text of prompts (`prompts.py`), the model (`loading.py`).
"""

from __future__ import annotations

from transformers import AutoTokenizer, LlavaConfig, LlavaProcessor

from .prompts import DEFAULT_STYLE

try:  # the PIL image processor: it gives the original's pixels, torchvision's does not
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
except ImportError:  # transformers before 5.3 has it under the plain name
    from transformers.models.llava.image_processing_llava import (
        LlavaImageProcessor as LlavaImageProcessorPil,
    )


def build_processor(folder: str, config: LlavaConfig) -> LlavaProcessor:
    """Return the processor with every field that matters taken from the config.

    Several published copies lack `patch_size` or `num_additional_image_tokens`, and then
    count 575 image tokens for 576 features. Batches are padded on the left: on the
    right, the shorter rows' answers change.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    side = config.vision_config.image_size
    pixels = LlavaImageProcessorPil.from_pretrained(
        folder,
        do_pad=True,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        chat_template=tokenizer.chat_template,
    )


def prompt_style(processor: LlavaProcessor) -> str | None:
    """Return the conversation style of our own, or None for the model's chat template.

    LLaVA-1.5's published template lacks the system sentence that it was trained with.
    """
    template = processor.chat_template
    if not template or ("USER:" in template and "ASSISTANT:" in template):
        return DEFAULT_STYLE
    return None
