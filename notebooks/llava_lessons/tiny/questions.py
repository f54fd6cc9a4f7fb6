"""What is asked about a scene, and the one right answer.

Each kind of question is a small function that picks something to ask about, or
nothing where the scene leaves no question with one answer. The wording comes from
`phrasings.py`. Answers are exact: they are compared character by character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from . import phrasings
from .scenes import COLOURS, SHAPES, SIZES, TRAINED_PAIRS, Scene, Thing
from .unanswerable import CANNOT_TELL, NEW_NOUNS, NOUNS, cannot_tell_question

NUMBERS = ("Zero", "One", "Two", "Three")


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the thing that it is about, if it is about one."""

    kind: str
    text: str
    answer: str
    about: Thing | None = None


def ask(
    random: Random,
    scene: Scene,
    kind: str,
    *,
    held_out: bool = False,
    pairs: Sequence[tuple[str, str]] = TRAINED_PAIRS,
) -> Question | None:
    """Put one question of `kind`; None if the scene has no answer to such a one.

    `held_out` takes the wording that training never uses. `pairs` are the
    colour-shape pairs that may be named though they are not in the picture.
    """
    worded = "exist" if kind == "mixture" else kind
    wording = (phrasings.HELD_OUT if held_out else phrasings.TRAINED).get(worded, ("",))
    return KINDS[kind](random, scene, random.choice(wording), held_out, pairs)


def with_opener(random: Random, question: Question) -> Question:
    """Return the question with some words before it, as people put them."""
    opener = random.choice(phrasings.OPENERS)
    text = question.text
    if opener.rstrip()[-1] in ",:" and not text.startswith("I "):
        text = text[:1].lower() + text[1:]
    return replace(question, text=opener + text)


def is_recoloured(scene: Scene) -> bool:
    """Whether the things have colours without a name, which nothing may ask about."""
    return any(not thing.colour for thing in scene.things)


def describe_scene(scene: Scene) -> str:
    """Return the caption: every thing in order, how they stand, the background."""
    names = ["a " + thing.phrase for thing in scene.things]
    article = "an" if scene.background[0] in "aeiou" else "a"
    ground = f"on {article} {scene.background} background."
    if not names:
        return f"An empty picture {ground}"
    if len(names) == 1:
        return f"A{names[0][1:]} {ground}"
    if len(names) == 2:
        side = "to the left of" if scene.layout == "row" else "above"
        return f"A{names[0][1:]} {side} {names[1]}, {ground}"
    order = "From left to right" if scene.layout == "row" else "From top to bottom"
    return f"{order}: {names[0]}, {names[1]} and {names[2]}, {ground}"


def references(scene: Scene, thing: Thing, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the subsets of `words` (attribute names) that single out `thing`."""
    choices = [tuple(word for i, word in enumerate(words) if mask >> i & 1) for mask in range(8)]
    unique = []
    for choice in sorted(set(choices)):
        if choice and sum(_alike(thing, other, choice) for other in scene.things) == 1:
            unique.append(choice)
    return unique


def name(random: Random, thing: Thing, attributes: Sequence[str]) -> str:
    """Return e.g. "red circle", "large thing": the attributes, then a noun."""
    words = [getattr(thing, each) for each in ("size", "colour") if each in attributes]
    noun = thing.shape if "shape" in attributes else random.choice(phrasings.THING_WORDS)
    return " ".join([*words, noun])


def _alike(one: Thing, other: Thing, attributes: Sequence[str]) -> bool:
    return all(getattr(one, each) == getattr(other, each) for each in attributes)


def _pick(
    random: Random, scene: Scene, words: Sequence[str], among: Sequence[Thing] | None = None
) -> tuple[Thing, str] | None:
    """Choose a thing and an unambiguous name for it made of `words`."""
    if is_recoloured(scene):
        words = [word for word in words if word != "colour"]
    named = [
        (thing, choice)
        for thing in (scene.things if among is None else among)
        for choice in references(scene, thing, words)
    ]
    if not named:
        return None
    thing, choice = random.choice(named)
    return thing, name(random, thing, choice)


def _colour_word(random: Random) -> str:
    return random.choice(("colour", "color"))


def _describe(random, scene, wording, held_out, pairs):
    return Question("describe", wording, describe_scene(scene))


def _attribute(kind: str, words: Sequence[str]):
    """Make the kind that asks one attribute of a thing named by the others."""

    def put(random, scene, wording, held_out, pairs):
        if random.random() < 0.15 and not (kind == "shape" and is_recoloured(scene)):
            return _absent(random, scene, kind, wording, words, pairs)
        picked = _pick(random, scene, words)
        if picked is None:
            return None
        thing, x = picked
        value = getattr(thing, kind)
        answer = f"A {value}." if kind == "shape" else f"{value.capitalize()}."
        text = wording.format(x=x, colour_word=_colour_word(random))
        return Question(kind, text, answer, thing)

    return put


def _absent(random, scene, kind, wording, words, pairs):
    """Ask about a thing that is not there: nobody can tell."""
    colour, shape = random.choice(list(pairs))
    ghost = Thing(shape, colour, random.choice(SIZES), 0, 0, 0, 0, (0, 0, 0))
    chosen = ("shape",) if kind == "colour" else ("colour",) if kind == "shape" else words[:2]
    if is_recoloured(scene):
        chosen = ("shape",)
    if any(_alike(ghost, thing, chosen) for thing in scene.things):
        return None
    text = wording.format(x=name(random, ghost, chosen), colour_word=_colour_word(random))
    return Question("absent", text, CANNOT_TELL)


def _count(random, scene, wording, held_out, pairs):
    text = wording.format(things=random.choice(phrasings.THING_WORDS))
    return Question("count", text, NUMBERS[len(scene.things)] + ".")


def _tally(random, scene, wording, held_out, pairs):
    kind = "shape" if is_recoloured(scene) else random.choice(("shape", "colour"))
    values = [getattr(thing, kind) for thing in scene.things]
    here = values and random.random() < 0.6
    value = random.choice(values if here else SHAPES if kind == "shape" else list(COLOURS))
    x = value if kind == "shape" else f"{value} {random.choice(phrasings.THING_WORDS)}"
    xs = x + ("es" if x.endswith("ss") else "s")
    return Question("tally", wording.format(xs=xs), NUMBERS[values.count(value)] + ".")


def _exist(random, scene, wording, held_out, pairs):
    words = random.choice((("shape",), ("colour",), ("colour", "shape"), ("colour", "shape")))
    if is_recoloured(scene):
        words = ("shape",)
    yes = bool(scene.things) and random.random() < 0.5
    if not yes and random.random() < 0.2:
        noun = random.choice(NEW_NOUNS if held_out else NOUNS)
        article = "an" if noun[0] in "aeiou" else "a"
        return Question("exist", wording.format(a_x=f"{article} {noun}"), "No.")
    if yes:
        thing = random.choice(scene.things)
    else:
        thing = _missing(random, scene, words, pairs)
        if thing is None:
            return None
    x = name(random, thing, words)
    if words == ("colour",) and random.random() < 0.5:
        x = f"anything {thing.colour}"
    else:
        x = f"{'an' if x[0] in 'aeiou' else 'a'} {x}"
    return Question(
        "exist", wording.format(a_x=x), "Yes." if yes else "No.", thing if yes else None
    )


def _mixture(random, scene, wording, held_out, pairs):
    """Ask for the colour of one thing in the shape of another, or for a thing that is there.

    As often for the one as for the other, so that "No." is not the answer to all such questions.
    """
    there = {(thing.colour, thing.shape) for thing in scene.things}
    colours, shapes = ({pair[part] for pair in there} for part in (0, 1))
    mixed = [pair for pair in pairs if pair[0] in colours and pair[1] in shapes]
    mixed = [pair for pair in mixed if pair not in there]
    if not mixed:
        return None
    thing = random.choice(scene.things) if random.random() < 0.5 else None
    colour, shape = (thing.colour, thing.shape) if thing else random.choice(mixed)
    text = wording.format(a_x=f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}")
    if thing:
        return Question("exist", text, "Yes.", thing)
    return Question("mixture", text, "No.")


def _missing(random, scene, words, pairs) -> Thing | None:
    """Make up a thing that is not there, often one attribute away from one that is."""
    near = [
        pair
        for pair in pairs
        if any(pair[0] == thing.colour or pair[1] == thing.shape for thing in scene.things)
    ]
    colour, shape = random.choice(near if near and random.random() < 0.7 else list(pairs))
    ghost = Thing(shape, colour, "large", 0, 0, 0, 0, (0, 0, 0))
    return None if any(_alike(ghost, thing, words) for thing in scene.things) else ghost


def _beside(scene: Scene, thing: Thing, side: str) -> list[Thing]:
    """Return what lies on that side of the thing."""
    if (scene.layout == "row") != (side in ("left", "right")):
        return []
    index = scene.things.index(thing)
    before = side in ("left", "above")
    return list(scene.things[:index] if before else scene.things[index + 1 :])


def _side(random, scene, wording, held_out, pairs):
    side = random.choice(_likely_sides(random, scene))
    answerable = [thing for thing in scene.things if len(_beside(scene, thing, side)) < 2]
    picked = _pick(random, scene, ("colour", "shape"), answerable)
    if picked is None:
        return None
    thing, x = picked
    found = _beside(scene, thing, side)
    things = random.choice(phrasings.THING_WORDS)
    side = random.choice(phrasings.SIDES[side])
    text = wording.format(x=x, side=side, Side=side.capitalize(), things=things)
    answer = f"A {found[0].phrase}." if found else "Nothing."
    return Question("side", text, answer, found[0] if found else None)


def _likely_sides(random: Random, scene: Scene) -> tuple[str, ...]:
    """Mostly the direction in which the things stand, so that most answers are things."""
    along, across = ("left", "right"), ("above", "below")
    if scene.layout == "column":
        along, across = across, along
    return along if random.random() < 0.85 else across


def _end(random, scene, wording, held_out, pairs):
    if len(scene.things) < 2:
        return None
    names = ("first", "last") if scene.layout == "row" else ("top", "bottom")
    places = {names[0]: scene.things[0], names[1]: scene.things[-1]}
    if len(scene.things) == 3:
        places["middle"] = scene.things[1]
    place = random.choice(list(places))
    things = random.choice(phrasings.THING_WORDS)
    text = wording.format(side=random.choice(phrasings.ENDS[place]), things=things)
    return Question("end", text, f"A {places[place].phrase}.", places[place])


def _background(random, scene, wording, held_out, pairs):
    text = wording.format(colour_word=_colour_word(random))
    return Question("background", text, scene.background.capitalize() + ".")


def _relation(random, scene, wording, held_out, pairs):
    if len(scene.things) < 2:
        return None
    one, other = random.sample(scene.things, 2)
    first = _pick(random, scene, ("colour", "shape"), [one])
    second = _pick(random, scene, ("colour", "shape"), [other])
    if first is None or second is None:
        return None
    side = random.choice(_likely_sides(random, scene))
    text = wording.format(x=first[1], y=second[1], side=random.choice(phrasings.SIDES[side]))
    return Question("relation", text, "Yes." if one in _beside(scene, other, side) else "No.")


def _unknown(random, scene, wording, held_out, pairs):
    return Question("unknown", cannot_tell_question(random, held_out=held_out), CANNOT_TELL)


KINDS = {
    "describe": _describe,
    "colour": _attribute("colour", ("shape", "size")),
    "shape": _attribute("shape", ("colour", "size")),
    "size": _attribute("size", ("colour", "shape")),
    "count": _count,
    "tally": _tally,
    "exist": _exist,
    "mixture": _mixture,
    "side": _side,
    "end": _end,
    "background": _background,
    "relation": _relation,
    "unknown": _unknown,
}
