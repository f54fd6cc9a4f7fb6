"""Questions that no picture of coloured shapes can answer.

The embedded model is taught to say so. Plain lists of sentences with a slot, the
words that fill it, and nonsense in many scripts. The held-out ones are only asked
when the model is measured.
"""

from __future__ import annotations

from random import Random

from llava_nb.catalog import DECLINED

CANNOT_TELL = DECLINED

NOUNS = tuple(
    "dog cat horse bird cow sheep elephant person man woman child boy girl baby car bus truck "
    "train boat bicycle plane tree flower house street road bridge river lake mountain beach "
    "sky cloud sun moon table chair bed sofa lamp clock book phone laptop keyboard television "
    "bottle cup glass plate knife pizza cake apple banana bread sandwich ball hat shoe shirt "
    "umbrella sign window door".split()
)
NEW_NOUNS = tuple("fish guitar kitchen garden dress wall computer bear coffee king".split())

TRAINED = (
    "What is the {x} doing?",
    "Who is the {x}?",
    "Who is the {x} in this picture?",
    "What is the name of the {x}?",
    "How old is the {x}?",
    "Where is the {x}?",
    "Why is the {x} here?",
    "What is the {x} made of?",
    "What colour is the {x}?",
    "What color is the {x}?",
    "What size is the {x}?",
    "How big is the {x}?",
    "What is to the left of the {x}?",
    "What is above the {x}?",
    "Is the {x} happy?",
    "What does the {x} eat?",
    "How much does the {x} cost?",
    "Who made the {x}?",
    "When was the {x} built?",
    "Where can I buy a {x}?",
    "Do you like the {x}?",
    "Tell me a story about a {x}.",
    "What is the weather like?",
    "What time is it?",
    "What day is it today?",
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "What is two plus two?",
    "Read the text.",
    "What does the text say?",
    "What is written here?",
    "Which language is this?",
    "Where was this picture taken?",
    "When was this picture taken?",
    "Who took this picture?",
    "What season is it?",
    "Is it day or night?",
    "What happens next?",
    "What happened before?",
    "What is unusual about this image?",
    "How do people feel?",
    "What should I cook today?",
    "Translate this into German.",
    "Write a poem.",
    "Tell me a joke.",
    "Hello, how are you?",
    "What is your name?",
    "Who are you?",
    "How does a computer work?",
    "What is the price?",
    "What are the things I should be cautious about when I visit here?",
    "Is this safe to eat?",
    "Which city is this?",
    "What brand is it?",
    "What is the temperature?",
    "How far is it?",
    "Sing a song for me.",
    "What is love?",
    "Can you help me with my homework?",
    "Why?",
    "Who won the game?",
    "Which street is this?",
    "Which season is this?",
    "Can you tell me what time it is?",
    "Can you tell me who the {x} is?",
    "Please tell me where the {x} is.",
)
HELD_OUT = (
    "What is the {x} looking at?",
    "How tall is the {x}?",
    "Who owns the {x}?",
    "Why is the {x} sad?",
    "Where does the {x} live?",
    "What is the weather today?",
    "Who is the president of France?",
    "What year is it?",
    "Tell me about your day.",
    "What is the meaning of life?",
    "Write a letter to a friend.",
    "Which country is this?",
)

# First code point and count of alphabets that nonsense is drawn from.
_SCRIPTS = ((0x61, 26), (0x41, 26), (0xAC00, 2000), (0x4E00, 2000), (0x430, 32), (0x627, 28))


def cannot_tell_question(random: Random, *, held_out: bool = False) -> str:
    """Return a question that has nothing to do with coloured shapes."""
    if not held_out and random.random() < 0.2:
        return nonsense(random)
    noun = random.choice(NEW_NOUNS if held_out and random.random() < 0.5 else NOUNS)
    return random.choice(HELD_OUT if held_out else TRAINED).format(x=noun)


def nonsense(random: Random) -> str:
    """Return one to six made-up words in one script, perhaps with a question mark."""
    start, count = random.choice(_SCRIPTS)
    words = [
        "".join(chr(start + random.randrange(count)) for _ in range(random.randint(1, 6)))
        for _ in range(random.randint(1, 6))
    ]
    return " ".join(words) + random.choice(("", "?", "."))
