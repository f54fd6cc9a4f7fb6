"""Which model of the LLaVA family a config describes, and transformers' classes for it.

LLaVA-1.x and BakLLaVA ("llava"), ViP-LLaVA ("vipllava"), LLaVA-NeXT, which is
LLaVA 1.6 ("llava_next"), and LLaVA-OneVision ("llava_onevision"), by the `model_type` of
config.json; the config as an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# model_type in config.json -> how transformers' classes for it begin.
CLASSES = {
    "llava": "Llava",
    "llava_next": "LlavaNext",
    "vipllava": "VipLlava",
    "llava_onevision": "LlavaOnevision",
}
_LAYERS = ("vision_feature_layers", "vision_feature_layer")


def network_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class of the network that a config describes."""
    return _class(config.model_type, "ForConditionalGeneration")


def build_config(raw: dict[str, Any]) -> PretrainedConfig:
    """Return the config that a config.json in the transformers layout describes.

    ViP-LLaVA reads several layers of its tower: `vision_feature_layers` in older versions of
    transformers and in published files, which have beside it a `vision_feature_layer` with
    one number that never counted; newer versions know only the latter name. Whether
    LLaVA-OneVision's head is its embeddings is told by the language model's part alone, which
    older versions do not look at; they would miss the head.
    """
    raw = dict(raw)
    given = [raw.pop(key, None) for key in _LAYERS if raw["model_type"] == "vipllava"]
    config = _class(raw["model_type"], "Config").from_dict(raw)
    for layers in given:
        if isinstance(layers, (list, tuple)):
            config.vision_feature_layers = list(layers)
            break
    if raw["model_type"] == "llava_onevision" and config.text_config.tie_word_embeddings:
        config.tie_word_embeddings = True
    return config


def _class(model_type: str, ending: str) -> Any:
    import transformers

    return getattr(transformers, CLASSES[model_type] + ending)
