"""Which conversation a model of the family is prompted with.

LLaVA-1.5 is prompted as it was trained: its published template leaves out the system
sentence. Every other model is prompted with the template that its processor was
published with. Some copies have none, or only the language model's, which knows no
pictures; then it is the conversation that the model was trained with, as far as that is
known, and else an error, because a model that is prompted in another form than its own
answers all the same, only worse.

Not covered: the text itself (`prompts.py`, `styles.py`), tokens (`processing.py`).
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from .errors import ModelError
from .prompts import DEFAULT_STYLE

# Where no template was published: (model_type, that of the language model) -> style. Sources: what
# the training scripts give as `--version` (haotian-liu/LLaVA scripts/v1_5/finetune.sh and
# SkunkworksAI/BakLLaVA scripts/finetune.sh: v1; WisconsinAIVision/ViP-LLaVA
# scripts/finetune_stage3.sh: llava_v1), and for Mistral llava/conversation.py of haotian-liu/LLaVA.
_TRAINED_WITH = {
    ("llava", "llama"): DEFAULT_STYLE,
    ("llava", "mistral"): DEFAULT_STYLE,
    ("vipllava", "llama"): "llava_v1",
    ("llava_next", "llama"): DEFAULT_STYLE,
    ("llava_next", "mistral"): "mistral_instruct",
}
_VICUNA_WORDS = 32_768  # Vicuna has 32,000 and a few; Llama 3, which speaks otherwise, 128,256

# What transformers' conversion script gives LLaVA-OneVision, whose first copies had only Qwen2's:
# src/transformers/models/llava_onevision/convert_llava_onevision_weights_to_hf.py.
_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_QUESTION = "What is this?"


def published_template(folder: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template in a folder with a processor, or else the tokenizer's."""
    about, _ = ProcessorMixin.get_processor_dict(folder)
    template = about.get("chat_template") or tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def settle_template(processor: ProcessorMixin, config: PretrainedConfig) -> None:
    """Take away a template that knows no pictures; put LLaVA-OneVision's own in its place."""
    if processor.chat_template and _one_turn(processor) is None:
        processor.chat_template = None
    if not processor.chat_template and config.model_type == "llava_onevision":
        processor.chat_template = _ONEVISION


def style_of(processor: ProcessorMixin, config: PretrainedConfig | None = None) -> str | None:
    """Return the conversation style of our own, or None for the processor's chat template.

    Without a config it is a model of the type "llava". Raises ModelError where there is no
    template and it is not known what the model was trained with.
    """
    model_type = config.model_type if config is not None else "llava"
    if not processor.chat_template:
        return _trained_with(config) if config is not None else DEFAULT_STYLE
    if model_type == "llava":
        asked = f"USER: {processor.image_token}\n{_QUESTION} ASSISTANT:"
        if (_one_turn(processor) or "").endswith(asked):
            return DEFAULT_STYLE
    return None


def _one_turn(processor: ProcessorMixin) -> str | None:
    """Return a question about a picture as the template writes it, None if it does not."""
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    messages = [{"role": "user", "content": content}]
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception:  # a template is a program; what it may raise is its author's choice
        return None
    # One for text alone fails, or writes the list as Python would and no picture.
    whole = text.count(processor.image_token) == text.count(_QUESTION) == 1
    return text if whole else None


def _trained_with(config: PretrainedConfig) -> str:
    text = config.text_config
    style = _TRAINED_WITH.get((config.model_type, text.model_type))
    if style is None or text.vocab_size > _VICUNA_WORDS:
        raise ModelError(
            f"The processor has no chat template with pictures, and it is not known how a "
            f"{config.model_type} on {text.model_type} was prompted when it was trained. Put its "
            "chat_template.jinja (or chat_template.json) into the folder; the model's page on the "
            "hub has it."
        )
    return style
