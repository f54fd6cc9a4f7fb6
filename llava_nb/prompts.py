"""From a question to the exact text that a LLaVA model was trained on.

A model that is prompted in another form than its own still answers, only worse,
and nothing says so. So prompts are built here as the original LLaVA code builds them,
in its own styles (`styles.py`), and tested against its output.

Covered: the Vicuna and Llama 2 styles of LLaVA-1.x, one turn or many. Not covered:
models with a chat template of their own (their processor renders it), and tokens.
This is pure text: nothing here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import PromptError
from .styles import STYLES, Style

IMAGE_TOKEN = "<image>"
DEFAULT_STYLE = "vicuna_v1"


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
    return _FORMS[STYLES[style].form](turns, STYLES[style])


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
        if number == 0 and style.system:
            question = f"<<SYS>>\n{style.system}\n<</SYS>>\n\n{question}"
        text += ("" if number == 0 else style.start) + f"[INST] {question} [/INST]"
        if answer is not None:
            text += f" {answer} {style.stop}"
    return text


def _human(turns: Sequence[tuple[str, str | None]], style: Style) -> str:
    text = style.system + style.stop
    for question, answer in (*filter(None, [style.example]), *turns):
        text += f"Human: {question}{style.stop}Assistant:"
        if answer is not None:
            text += f" {answer}{style.stop}"
    return text


def _plain(turns: Sequence[tuple[str, str | None]], style: Style) -> str:
    """The form of LLaVA's first training stage: a picture and its caption, nothing else."""
    if len(turns) > 1:
        raise PromptError('The style "plain" has one turn; use another for a conversation.')
    return f"{turns[0][0]}{style.stop}"


_FORMS = {"vicuna": _vicuna, "llama_2": _llama_2, "human": _human, "plain": _plain}


def chat_template(style: str, picture: str) -> str | None:
    """Return the style as a Jinja chat template, for whoever calls a processor directly.

    `picture` is what is written for a picture. Only Vicuna's form has one; None for others.
    """
    if STYLES[style].form != "vicuna":
        return None
    system, shown = (text.replace("'", "\\'") for text in (STYLES[style].system, picture))
    shown = shown.replace("\n", "\\n")
    return (
        "{{ '" + system + " ' }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
        "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'image' %}"
        "{{ '" + shown + "' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}"
        "{{ part['text'] + ' ' }}{% endfor %}{% endif %}"
        "{% else %}{{ 'ASSISTANT: ' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endfor %}{% endif %}{{ '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )


def with_image(question: str, images: int = 1, picture: str = IMAGE_TOKEN) -> str:
    """Return the question with its image tokens, put first unless it places them itself.

    `picture` is what is put: some models want marks round the image token.

    Raises PromptError if the question places another number of pictures than there are.
    """
    placed = question.count(IMAGE_TOKEN)
    if placed == 0:
        return f"{picture}\n" * images + question
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
