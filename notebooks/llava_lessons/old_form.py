"""The form of LLaVA's first models, before July 2023: what a model trained with another is not
used to.

Text of the original's `conv_v0`, with the example conversation that stands before each question:
https://github.com/haotian-liu/LLaVA, `llava/conversation.py`.
"""

from __future__ import annotations

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the human's questions."
)
EXAMPLE_QUESTION = (
    "What are the key differences between renewable and non-renewable energy sources?"
)
EXAMPLE_ANSWER = (
    "Renewable energy sources are those that can be replenished naturally in a "
    "relatively short amount of time, such as solar, wind, hydro, geothermal, and "
    "biomass. Non-renewable energy sources, on the other hand, are finite and will "
    "eventually be depleted, such as coal, oil, and natural gas. Here are some key "
    "differences between renewable and non-renewable energy sources:\n"
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
    "6. Sustainability: Renewable energy sources are more sustainable over the long "
    "term, while non-renewable sources are not, and their depletion can lead to economic "
    "and social instability.\n"
)


def old_form(question: str) -> str:
    """Return the prompt for a question, whose picture stands in it as `<image>`."""
    example = f"###Human: {EXAMPLE_QUESTION}###Assistant: {EXAMPLE_ANSWER}"
    return f"{SYSTEM}{example}###Human: {question}###Assistant:"
