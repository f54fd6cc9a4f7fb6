"""Processors of the models that cut pictures into tiles: LLaVA-NeXT and LLaVA-OneVision.

They scale a picture to the nearest of some sizes, cut it, and give the tower the tiles
and the whole. How many tokens that makes is counted by the processor from its own
fields and by the model from its config, so every field that matters is set from the
config. Nothing is padded to a square beforehand.

Not covered: models that see a picture once (`processing.py`).
"""

from __future__ import annotations

from typing import Any

from transformers import (
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

try:  # the PIL image processors, as for LLaVA-1.5
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )
except ImportError:  # transformers before 5.3 has them under the plain names
    from transformers.models.llava_next.image_processing_llava_next import (
        LlavaNextImageProcessor as LlavaNextImageProcessorPil,
    )
    from transformers.models.llava_onevision.image_processing_llava_onevision import (
        LlavaOnevisionImageProcessor as LlavaOnevisionImageProcessorPil,
    )


class OnevisionPictures(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without its half for videos, which needs torchvision.

    transformers goes by the names of the arguments: what is not among them is not asked for.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **fields: Any) -> None:
        super().__init__(image_processor, tokenizer, video_processor=None, **fields)


# In saved folders the name stands for the class that transformers knows.
OnevisionPictures.__name__ = LlavaOnevisionProcessor.__name__


def build_tiled(
    pixels: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, **fields: Any
) -> ProcessorMixin:
    """Return the processor of a LLaVA-NeXT or a LLaVA-OneVision.

    `pixels` is the folder with the image processor's settings; `fields` are those that
    both processors have.
    """
    build = {"llava_next": _next, "llava_onevision": _onevision}[config.model_type]
    return build(pixels, config, tokenizer=tokenizer, **fields)


def _next(pixels: str, config: PretrainedConfig, **fields: Any) -> LlavaNextProcessor:
    side = config.vision_config.image_size
    image_processor = LlavaNextImageProcessorPil.from_pretrained(
        pixels,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        **_tiling(config),
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        patch_size=config.vision_config.patch_size,
        num_additional_image_tokens=int("clip" in config.vision_config.model_type),
        **fields,
    )


def _onevision(pixels: str, config: PretrainedConfig, **fields: Any) -> LlavaOnevisionProcessor:
    """The tower's positions are given as a number; SigLIP has no class token."""
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    image_processor = LlavaOnevisionImageProcessorPil.from_pretrained(
        pixels, size={"height": side, "width": side}, **_tiling(config)
    )
    return OnevisionPictures(
        image_processor=image_processor,
        num_image_tokens=(side // patch) ** 2,
        vision_aspect_ratio=config.vision_aspect_ratio,
        **fields,
    )


def _tiling(config: PretrainedConfig) -> dict[str, Any]:
    """Return the sizes to scale to, and that pictures of a batch get the same number of tiles."""
    return {"image_grid_pinpoints": config.image_grid_pinpoints, "do_pad": True}
