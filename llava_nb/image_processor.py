"""The image processor of a model: pictures are treated as it was published, in little memory."""

from __future__ import annotations

import math
import re
from typing import Any

from PIL import Image
from transformers import (
    ImageProcessingMixin,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PretrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from .errors import ModelError


def _on_pil(name: str) -> Any:
    """Return transformers' image processor on PIL of that name, None if there is none."""
    # They give the pixels that models were trained with, torchvision's do not. transformers before
    # 5.3 has them under the plain name.
    found = get_image_processor_class_from_name(f"{name}ImageProcessorPil")
    return found or get_image_processor_class_from_name(f"{name}ImageProcessor")


LlavaImageProcessorPil = _on_pil("Llava")
LlavaNextImageProcessorPil = _on_pil("LlavaNext")
LlavaOnevisionImageProcessorPil = _on_pil("LlavaOnevision")


class OnevisionPixels(LlavaOnevisionImageProcessorPil):
    """LLaVA-OneVision's image processor; `views` is "tiles" or "one", the whole picture alone."""

    views = "tiles"

    def _preprocess(
        self, images: Any, batch_num_images: Any, *arguments: Any, **fields: Any
    ) -> Any:
        if self.views == "one":  # any number but 1 says that there are several, which get no tiles
            batch_num_images = [2] * len(images)
        return super()._preprocess(images, batch_num_images, *arguments, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they are saved; how pictures are shown is none of them."""
        return {name: each for name, each in super().to_dict().items() if name != "views"}


class OnevisionPictures(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without its half for videos, which needs torchvision."""

    # transformers goes by the names of the arguments: what is not among them is not asked for.
    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **fields: Any) -> None:
        super().__init__(image_processor, tokenizer, video_processor=None, **fields)


# In saved folders the names stand for the classes that transformers knows.
OnevisionPictures.__name__ = LlavaOnevisionProcessor.__name__
OnevisionPixels.__name__ = LlavaOnevisionImageProcessorPil.__name__


def build_with_pixels(
    folder: str, config: PretrainedConfig, *, padded: bool | None = None, **fields: Any
) -> ProcessorMixin:
    """Return the processor of a model: the image processor of `folder`, and `fields` as they are.

    `padded` is what a config in the original layout says of pictures, None in the other layout.
    """
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    square = {"height": side, "width": side}
    # Every field is given: several published copies lack some, and then count 575 tokens for 576
    # features. Padded: to the same number of tiles in a batch.
    tiles = {"image_grid_pinpoints": getattr(config, "image_grid_pinpoints", None), "do_pad": True}
    if config.model_type == "llava_onevision":
        return OnevisionPictures(
            OnevisionPixels.from_pretrained(folder, size=square, **tiles),
            num_image_tokens=(side // patch) ** 2,
            vision_aspect_ratio=config.vision_aspect_ratio,
            **fields,
        )
    if config.model_type == "llava_next":
        kind, sizes = LlavaNextProcessor, {"size": {"shortest_edge": side}, "crop_size": square}
        pixels = LlavaNextImageProcessorPil.from_pretrained(folder, **sizes, **tiles)
    else:
        kind, pixels = LlavaProcessor, _image_processor(folder, config, padded)
    class_tokens = int("clip" in config.vision_config.model_type)  # SigLIP has none
    return kind(pixels, patch_size=patch, num_additional_image_tokens=class_tokens, **fields)


def _image_processor(folder: str, config: PretrainedConfig, padded: bool | None) -> Any:
    """Return the image processor that treats pictures as the model was trained."""
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    cropped = {"size": {"shortest_edge": side}, "crop_size": square}
    if padded is not None:
        return LlavaImageProcessorPil.from_pretrained(folder, do_pad=padded, **cropped)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    name = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name)
    on_clip = "clip" in config.vision_config.model_type
    name = name or ("CLIP" if on_clip else "Siglip")
    size = settings.get("size")
    is_stretched = isinstance(size, dict) and "height" in size  # an old file has one number
    # CLIP's image processor has a field of that name too, which means another thing.
    told = settings.get("do_pad") if name == "Llava" else None
    # LLaVA-1.5, BakLLaVA and ViP-LLaVA were published with CLIP's own, which crops, and trained on
    # pictures that are padded to a square (`--image_aspect_ratio pad`).
    as_trained = on_clip and name in ("CLIP", "Llava") and not is_stretched
    if told or (told is None and as_trained):
        return LlavaImageProcessorPil.from_pretrained(folder, do_pad=True, **cropped)

    kind, reason = _on_pil(name), "is not in this version of transformers"
    picture = Image.new("RGB", (side + side // 2, side))  # no square
    for sizes in ({}, cropped if settings.get("do_center_crop") else {"size": square}):
        if kind is None:
            break
        try:
            image_processor = kind.from_pretrained(folder, **sizes)
            made = tuple(image_processor(picture, return_tensors="pt")["pixel_values"].shape)
        except Exception as error:  # the settings are their author's choice; so is what they raise
            first_line = str(error).strip().partition("\n")[0]
            reason = f"cannot be used ({type(error).__name__}: {first_line})"
            continue
        if made == (1, 3, side, side):
            return image_processor
        reason = f"makes pixels of shape {made}"
    raise ModelError(
        f"The image processor that {folder} names, {name}ImageProcessor, {reason}, and the vision "
        f"tower takes (1, 3, {side}, {side}). Fetch preprocessor_config.json again; if it is as "
        "published, load() does not read this model."
    )


# transformers' image processors copy a picture some times over, in its own size or, padded to a
# square, in a far larger one: 2.5 GiB each for 800 x 30,000 pixels. Pillow needs no copies.
_BAND = 256  # rows that are resized at once
_STRIP = 4096  # pixels of the longer side of a strip, 10 times what a model looks at
_TILED = 24_000_000  # pixels of a picture that is cut into tiles, a photograph of today


def shrink(
    picture: Image.Image,
    processor: ProcessorMixin,
    *,
    original: bool = False,
    is_alone: bool = True,
) -> Image.Image:
    """Return the picture in the size that the model looks at, so that it takes little memory.

    `is_alone`: not one of several in a question, which LLaVA-OneVision is shown in one view each.
    The pixels that the processor makes of it are bit for bit those that it makes of the whole
    picture, but for strips more than 4,096 pixels long (padded) or 64 times as long as wide
    (cropped) and, where pictures are cut into tiles, for more than 24 megapixels.
    """
    pixels = processor.image_processor
    views = getattr(pixels, "views", None)
    if views == "one" or (views and not is_alone):
        return _padded(picture, pixels.size["height"], _mean_colour(pixels), pixels.resample)
    if not isinstance(processor, LlavaProcessor) or not pixels.do_resize:
        factor = math.ceil(math.sqrt(picture.width * picture.height / _TILED))
        return picture.reduce(factor) if factor > 1 else picture
    if "height" in pixels.size:
        return picture.resize((pixels.size["width"], pixels.size["height"]), pixels.resample)
    side = pixels.size["shortest_edge"]
    if isinstance(pixels, LlavaImageProcessorPil) and pixels.do_pad:
        return _padded(picture, side, _mean_colour(pixels), pixels.resample)
    return _shortest_edge(picture, side, pixels.resample, across_first=original)


def _mean_colour(pixels: Any) -> tuple[int, ...]:
    return tuple(int(mean * 255) for mean in pixels.image_mean)  # as the original has it


def _padded(picture: Image.Image, side: int, colour: tuple[int, ...], resample: int) -> Image.Image:
    """Pad to a square with a colour, the picture in the middle, and resize that to `side`."""
    # Pillow resizes a square across, then down. So it is made some rows at a time, each as wide as
    # the square, and one column of the result's width is resized down.
    longest, shortest = max(picture.size), min(picture.size)
    if longest > _STRIP and longest > 4 * shortest:
        picture = picture.reduce(math.ceil(longest / _STRIP))
    (width, height), edge = picture.size, max(picture.size)
    if width == height:
        return picture.resize((side, side), resample)
    column = Image.new("RGB", (side, edge), colour)
    for top in range(0, height, _BAND):
        band = Image.new("RGB", (edge, min(_BAND, height - top)), colour)
        rows = picture.crop((0, top, width, top + band.height))
        band.paste(rows, ((edge - width) // 2, 0))
        across = band.resize((side, band.height), resample)
        column.paste(across, (0, (edge - height) // 2 + top))
    return column.resize((side, side), resample)


def _shortest_edge(
    picture: Image.Image, side: int, resample: int, *, across_first: bool
) -> Image.Image:
    """Resize the shorter edge to `side`; of a strip the middle is enough, the rest is cropped."""
    width, height = picture.size
    if max(width, height) > 64 * min(width, height):
        keep = 64 * min(width, height)  # an even number is cut off, so that the middle stays it
        left, top = (max(length - keep, 0) // 2 for length in picture.size)
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    shorter = min(width, height)
    to = (int(side * width / shorter), int(side * height / shorter))
    # Pillow from 13 on goes down first where a picture is tall (python-pillow#9549), and rounding
    # to 8 bits in between makes other pixels than the original's models were trained with.
    if across_first:
        picture = picture.resize((to[0], height), resample)
    return picture.resize(to, resample)
