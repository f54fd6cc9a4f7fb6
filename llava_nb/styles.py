"""The conversation styles of the original LLaVA code, written down character for character.

From llava/conversation.py of haotian-liu/LLaVA; tested against what that code wrote.
Not here: MPT and ChatML, whose models `load()` does not read in the original layout. How a
style becomes a prompt is in `prompts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """One conversation style: its system sentence, its form, and what begins and ends a turn.

    `form` is "vicuna" (USER: ... ASSISTANT: ...), "human" (###Human: ...###Assistant: ...),
    "llama_2" ([INST] ... [/INST]) or "plain". `example` is an exchange that comes before
    the first question. `start` stands before every turn but the first.
    """

    system: str
    form: str
    stop: str = "</s>"
    example: tuple[str, str] | None = None
    start: str = ""


_VICUNA = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
_HUMAN = _VICUNA.format(who="human")
_TAGGED = (
    "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant is able to understand the visual content that the user provides, and "
    "assist the user with a variety of tasks using natural language.The visual content "
    "will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
    "possible, while being safe.  Your answers should not include any harmful, unethical,"
    " racist, sexist, toxic, dangerous, or illegal content. Please ensure that your "
    "responses are socially unbiased and positive in nature.\n"
    "\n"
    "If a question does not make any sense, or is not factually coherent, explain why "
    "instead of answering something not correct. If you don't know the answer to a "
    "question, please don't share false information."
)
_EXAMPLE = (
    "What are the key differences between renewable and non-renewable energy sources?",
    (
        "Renewable energy sources are those that can be replenished naturally in a relatively"
        " short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
        "Non-renewable energy sources, on the other hand, are finite and will eventually be "
        "depleted, such as coal, oil, and natural gas. Here are some key differences between "
        "renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while "
        "non-renewable energy sources are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental "
        "impact than non-renewable sources, which can lead to air and water pollution, "
        "greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but "
        "they typically have lower operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in "
        "more remote locations than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted "
        "to different situations and needs, while non-renewable sources are more rigid and "
        "inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term,"
        " while non-renewable sources are not, and their depletion can lead to economic and "
        "social instability.\n"
    ),
)

# LLaVA-1.5 was trained with vicuna_v1 ("user"); the command line tools of the original pick
# llava_v1 ("human") by name. The styles with "v0" are those of models before July 2023.
STYLES = {
    "vicuna_v1": Style(_VICUNA.format(who="user"), "vicuna"),
    "llava_v1": Style(_HUMAN, "vicuna"),
    "v1_mmtag": Style(_TAGGED, "vicuna"),
    "llava_llama_2": Style(
        "You are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language.",
        "llama_2",
        start="<s>",
    ),
    "llama_2": Style(_LLAMA_2, "llama_2", start="<s>"),
    "mistral_instruct": Style("", "llama_2"),
    "llava_v0": Style(_HUMAN, "human", stop="###"),
    "v0_mmtag": Style(_TAGGED, "human", stop="###"),
    "v0": Style(_HUMAN, "human", stop="###", example=_EXAMPLE),
    "plain": Style("", "plain", stop="\n"),
}
