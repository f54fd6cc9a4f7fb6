"""From a question to the exact text that a LLaVA model was trained on.

A model that is prompted in another form than its own still answers, only worse,
and nothing says so. So the conversation styles of the original LLaVA code are
written down here once, character for character, and tested against its output.

Covered: the Vicuna and Llama 2 styles of LLaVA-1.x, one turn or many. Not covered:
models with a chat template of their own (their processor renders it), and tokens.
This is pure text: nothing here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import PromptError

IMAGE_TOKEN = "<image>"
DEFAULT_STYLE = "vicuna_v1"


@dataclass(frozen=True)
class Style:
    """One conversation style: its system sentence, its form, and what ends an answer."""

    system: str
    form: str  # "vicuna" or "llama_2"
    stop: str = "</s>"


_VICUNA = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)

# From llava/conversation.py of haotian-liu/LLaVA. LLaVA-1.5 was trained with vicuna_v1
# ("user"); the command line tools of the original pick llava_v1 ("human") by name.
STYLES = {
    "vicuna_v1": Style(_VICUNA.format(who="user"), "vicuna"),
    "llava_v1": Style(_VICUNA.format(who="human"), "vicuna"),
    "llava_llama_2": Style(
        "You are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language.",
        "llama_2",
    ),
}


def build(turns: Sequence[tuple[str, str | None]], style: str = DEFAULT_STYLE) -> str:
    """Return the prompt of a conversation.

    `turns` are (question, answer) pairs; the answer of the last is None, and the
    prompt ends where the model's answer begins. Questions carry their own image
    tokens (see `with_image`).

    Raises PromptError for an unknown style, no turns, or an answer that is missing
    before the last turn.
    """
    if style not in STYLES:
        raise PromptError(f"There is no conversation style {style!r}; use one of {list(STYLES)}.")
    if not turns:
        raise PromptError("A prompt needs at least one question: build([('What is this?', None)]).")
    if any(answer is None for _, answer in turns[:-1]):
        raise PromptError("Every turn but the last needs its answer; only the last may be None.")
    form = STYLES[style].form
    return _vicuna(turns, STYLES[style]) if form == "vicuna" else _llama_2(turns, STYLES[style])


def _vicuna(turns: Sequence[tuple[str, str | None]], style: Style) -> str:
    text = style.system + " "
    for question, answer in turns:
        text += f"USER: {question} ASSISTANT:"
        if answer is not None:
            text += f" {answer}{style.stop}"
    return text


def _llama_2(turns: Sequence[tuple[str, str | None]], style: Style) -> str:
    # The original strips the "<s>" before the first turn: the tokenizer adds its own.
    text = ""
    for number, (question, answer) in enumerate(turns):
        if number == 0:
            question = f"<<SYS>>\n{style.system}\n<</SYS>>\n\n{question}"
        text += ("" if number == 0 else "<s>") + f"[INST] {question} [/INST]"
        if answer is not None:
            text += f" {answer} {style.stop}"
    return text


def with_image(question: str, images: int = 1) -> str:
    """Return the question with its image tokens, put first unless it places them itself.

    Raises PromptError if the question places another number of pictures than there are.
    """
    placed = question.count(IMAGE_TOKEN)
    if placed == 0:
        return f"{IMAGE_TOKEN}\n" * images + question
    check_images(question, images)
    return question


def check_images(prompt: str, images: int) -> None:
    """Raise PromptError unless the prompt has one image token for each picture.

    A model that is given image tokens and no picture answers all the same, about
    nothing: this is the only place where that is noticed.
    """
    placed = prompt.count(IMAGE_TOKEN)
    if placed == images:
        return
    if images == 0:
        raise PromptError(
            f"The prompt holds {IMAGE_TOKEN} {placed} time(s), but no picture was given. "
            f"Pass the picture, or take {IMAGE_TOKEN} out of the prompt."
        )
    raise PromptError(
        f"There are {images} picture(s), but the prompt holds {IMAGE_TOKEN} {placed} time(s). "
        f"Write the question without {IMAGE_TOKEN}: it is added for you."
    )
