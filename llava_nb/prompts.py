"""From a question to the exact text that a LLaVA was trained on.

A model that is prompted in another form than its own still answers, only worse, and nothing says
so. So each conversation stands here once, as the chat template that prompts are made with.
"""

from __future__ import annotations

import functools
import numbers
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import PromptError

DEFAULT_PROMPT = "Describe this picture."
DEFAULT_STYLE = "vicuna_v1"
IMAGE_TOKEN = "<image>"
_SINGLE = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)  # no row of questions


class Style(NamedTuple):
    """One conversation: what stands around each question and each answer."""

    first: str  # before the first question, with the system sentence
    again: str  # before every later question
    after: str  # after each question
    answer: str  # before an answer that is given
    end: str  # after it
    asked: str  # where an answer is asked for


def _vicuna(who: str) -> Style:
    system = (
        f"A chat between a curious {who} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
    )
    return Style(f"{system} USER: ", "USER: ", " ", "ASSISTANT: ", "</s>", "ASSISTANT:")


def _headed(system: str, begin: str, head: str, end: str) -> Style:
    """Return a conversation whose turns begin with the role (ChatML, Llama 3)."""
    user, asked = f"{begin}user{head}", f"{begin}assistant{head}"
    told = f"{begin}system{head}{system}{end}" if system else ""
    return Style(told + user, user, end, asked, end, asked)


_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_LLAMA_2 = f"[INST] <<SYS>>\n{_SYSTEM}\n<</SYS>>\n\n"
_LLAMA_3 = ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>")

# The first four are character for character those of llava/conversation.py of haotian-liu/LLaVA,
# and tested against what that code wrote; it strips the "<s>" before the first turn, which the
# tokenizer adds. LLaVA-1.5 was trained with vicuna_v1 ("user"); the command line tools of the
# original pick llava_v1 ("human") by name. llama_3 is xtuner's for LLaVA on Llama 3 (the card of
# llava-llama-3-8b-v1_1-transformers), llava_llama_3 that of LLaVA-VL/LLaVA-NeXT's
# llava/conversation.py, and chatml that of LLaVA-OneVision, in transformers'
# models/llava_onevision/convert_llava_onevision_weights_to_hf.py.
STYLES = {
    "vicuna_v1": _vicuna("user"),
    "llava_v1": _vicuna("human"),
    "llava_llama_2": Style(_LLAMA_2, "<s>[INST] ", " [/INST]", " ", " </s>", ""),
    "mistral_instruct": Style("[INST] ", "[INST] ", " [/INST]", " ", " </s>", ""),
    "llama_3": _headed("", *_LLAMA_3),
    "llava_llama_3": _headed(_SYSTEM, *_LLAMA_3),
    "chatml": _headed("", "<|im_start|>", "\n", "<|im_end|>\n"),
}


def build(turns: Sequence[tuple[str, str | None]], style: str = DEFAULT_STYLE) -> str:
    """Return the prompt of a conversation.

    `turns` are (question, answer) pairs; the answer of the last is None, and the prompt ends where
    the model's answer begins. Questions carry their own image tokens. Raises PromptError.
    """
    if style not in STYLES:
        raise PromptError(f"There is no conversation style {style!r}; use one of {list(STYLES)}.")
    if not turns:
        raise PromptError("A prompt needs at least one question: build([('What is this?', None)]).")
    if any(answer is None for _, answer in turns[:-1]):
        raise PromptError("Every turn but the last needs its answer; only the last may be None.")
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return _compiled(style).render(
        messages=messages, add_generation_prompt=messages[-1]["role"] == "user"
    )


@functools.cache
def _compiled(style: str) -> Template:
    # As transformers sets up Jinja for chat templates, so that both write the same.
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        chat_template(style, f"{IMAGE_TOKEN}\n")
    )


def chat_template(style: str, picture: str) -> str:
    """Return the style as a Jinja chat template, for a processor of transformers.

    `picture` is what is written for a picture; of message content in parts the pictures come first.
    """
    names, values = ", ".join((*Style._fields, "picture")), (*STYLES[style], picture)
    return f"{{% set {names} = {', '.join(map(repr, values))} %}}{_CONVERSATION}"


_CONVERSATION = (
    "{% for message in messages %}{% set asks = message['role'] == 'user' %}"
    "{{ (first if loop.first else again) if asks else answer }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ picture }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ after if asks else end }}{% endfor %}"
    "{% if add_generation_prompt %}{{ asked }}{% endif %}"
)


def with_image(question: str, images: int = 1, picture: str = IMAGE_TOKEN) -> str:
    """Return the question with its image tokens, put first unless it places them itself.

    `picture` is what is put: some models want marks round the image token. Raises PromptError.
    """
    placed = question.count(IMAGE_TOKEN)
    if placed == 0:
        return f"{picture}\n" * images + question
    check_images(question, images)
    return question


def check_images(prompt: str, images: int, token: str = IMAGE_TOKEN) -> None:
    """Raise PromptError unless the prompt has one image token for each picture."""
    placed = prompt.count(token)
    if placed == images:
        return
    if images == 0:
        raise PromptError(
            f"The prompt holds {token} {placed} time(s), but no picture was given. "
            f"Pass the picture, or take {token} out of the prompt."
        )
    raise PromptError(
        f"There are {images} picture(s), but the prompt holds {token} {placed} time(s). "
        f"Write the question without {token}: it is added for you."
    )


def check_question(prompt: Any) -> str:
    """Return the question as a tokenizer can read it.

    Half characters (lone surrogates, from text that was cut in UTF-16) become U+FFFD, two halves
    that belong together one character; control characters but line ends and tabs are left out.
    Raises PromptError.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"{_no_text(prompt)} {_ASK}")
    text = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = "".join(c for c in text if c in "\t\n\r" or unicodedata.category(c) != "Cc")
    if not text.strip():
        lack = "holds nothing but control characters" if prompt.strip() else "is empty"
        raise PromptError(f"The prompt {lack}. {_ASK}")
    return text


def check_questions(prompts: Any) -> str | list[str]:
    """Return the question for all, or a list of questions, each as `check_question` does."""
    is_row = isinstance(prompts, Iterable) and getattr(prompts, "ndim", 1) == 1
    if isinstance(prompts, _SINGLE) or not is_row:
        return check_question(prompts)  # which says what it is
    try:
        given, questions = list(prompts), []
    except (TypeError, ValueError, OSError):  # such as of a closed file
        return check_question(prompts)
    for number, prompt in enumerate(given, 1):
        try:
            questions.append(check_question(prompt))
        except PromptError as error:
            raise PromptError(f"Of {len(given)} prompts, number {number}: {error}") from None
    return questions


_ASK = f'Ask something: ask(image, "{DEFAULT_PROMPT}").'


def _no_text(prompt: Any) -> str:
    """Say what was given in place of a question."""
    kind, dimensions = type(prompt).__name__, getattr(prompt, "ndim", None)
    if prompt is None:
        return "There is no prompt: it is None."
    if isinstance(prompt, numbers.Number) or dimensions == 0:
        return f"The prompt is a number ({prompt}), not text."
    # Arrays and Pillow's pictures have the first name, tensors the second; one row is a list. Asked
    # of the type: of a picture whose file is closed, the name itself raises.
    is_array = any(hasattr(type(prompt), name) for name in ("__array_interface__", "__array__"))
    is_file = isinstance(prompt, bytes | bytearray | os.PathLike) or hasattr(prompt, "read")
    if is_file or (is_array and dimensions != 1):
        return (
            f"The prompt is of type {kind}, which looks like a picture: are picture and prompt "
            "swapped? The picture comes first."
        )
    if isinstance(prompt, Iterable) or dimensions == 1:
        return (
            f"The prompt is of type {kind}, not text. One call asks one question; "
            "ask_batch(images, prompts) takes a list of them."
        )
    return f"The prompt is of type {kind}, not text."
