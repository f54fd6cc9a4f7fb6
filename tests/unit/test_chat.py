"""Conversations with the real embedded model: the same answers, read once."""

import contextlib
import inspect
import threading
from random import Random

import pytest
import torch
from close_words import same_but_for_ties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import ImageError, PromptError, load
from llava_nb.inference.chat import HEIGHT, side_by_side
from llava_nb.processor import encode

DESCRIBE, COUNT = "Describe this picture.", "How many things are there?"
COLOUR = "What is its colour?"
QUESTIONS = (DESCRIBE, COUNT, COLOUR, "Is there a circle?", "What is on the left?")
PICTURES = [draw(sample_scene(Random(f"chat {at}"), count=1 + at)) for at in range(3)]


@pytest.fixture
def exact():
    """The embedded model in float32, remembering nothing yet."""
    llava = load("tiny", quantization=None)
    llava.prefixes.clear()
    return llava


def fresh(llava, chat, max_new_tokens):
    """The answer to the last question of a conversation, with all of it read anew.

    One call of transformers' own generate, on the ids of the whole prompt.
    """
    turn = chat.turns[-1]
    turns = [(each.question, each.answer.text) for each in chat.turns[chat.forgotten : -1]]
    text = llava.engine.prompt_text([*turns, (turn.question, None)], 1)
    inputs = encode(llava.processor, [chat.image], [text], llava.spelling)
    made = llava.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return text, made[0, inputs["input_ids"].shape[1] :].tolist()


@contextlib.contextmanager
def count_reads(llava):
    """A list with an entry for each time that the vision tower runs."""
    reads = []
    hook = llava.model.model.vision_tower.register_forward_hook(lambda *_: reads.append(1))
    yield reads
    hook.remove()


WAYS = {
    "in a conversation": lambda llava: llava.chat(PICTURES[0]).ask,
    "in conversations about it": lambda llava: lambda asked: llava.chat(PICTURES[0]).ask(asked),
    "in questions about it": lambda llava: lambda asked: llava.ask(PICTURES[0], asked),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_read_once(exact, way):
    ask = WAYS[way](exact)
    with count_reads(exact) as reads:
        answers = [ask(question) for question in QUESTIONS]
    assert len(reads) == 1
    assert [answer.reused_tokens > 0 for answer in answers] == [False, True, True, True, True]


def test_of_a_follow_up_only_the_new_words_are_read(exact):
    chat = exact.chat(PICTURES[1])
    first, second = chat.ask(DESCRIBE), chat.ask(COUNT)
    # All but the last token of the first answer has been read already.
    assert second.reused_tokens == first.prompt_tokens + first.tokens - 1


def test_a_question_gives_the_same_numbers_whether_its_picture_is_known_or_not(tiny):
    tiny.prefixes.clear()
    logits = []
    hook = tiny.model.lm_head.register_forward_hook(lambda *call: logits.append(call[2].clone()))
    try:
        first, again = tiny.ask(PICTURES[2], DESCRIBE), tiny.ask(PICTURES[2], DESCRIBE)
    finally:
        hook.remove()
    assert again.reused_tokens and first.ids == again.ids
    halves = logits[: len(logits) // 2], logits[len(logits) // 2 :]
    assert all(torch.equal(one, two) for one, two in zip(*halves, strict=True))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "undo", "regenerate", "stream", "stream_again"]),
        st.integers(0, 1),
        st.sampled_from(QUESTIONS),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, about=st.sampled_from([(0, 0), (0, 1), (1, 2)]))
def test_a_conversation_answers_as_if_all_was_read_anew(exact, steps, about):
    chats, short = [exact.chat(PICTURES[each]) for each in about], {"max_new_tokens": 8}
    for action, which, question in steps:
        chat = chats[which]
        if action == "ask" or not chat.turns:
            chat.ask(question, **short)
        elif action == "stream":
            "".join(chat.stream(question, **short))
        elif action == "undo":
            chat.undo()
        elif action == "regenerate":
            chat.regenerate(**short)
        else:
            "".join(chat.stream_again(**short))
        if chat.turns:
            (text, expected), ids = fresh(exact, chat, 8), chat.turns[-1].answer.ids
            assert same_but_for_ties(exact, chat.image, text, ids, expected), chat.messages


def test_the_conversation_is_told_as_the_model_was_trained(exact):
    chat = exact.chat(PICTURES[0])
    said = chat.ask(DESCRIBE).text
    assert chat.prompt_text(COUNT).endswith(
        f"USER: <image>\n{DESCRIBE} ASSISTANT: {said}</s>USER: {COUNT} ASSISTANT:"
    )
    assert chat.messages == [
        {"role": "user", "content": DESCRIBE},
        {"role": "assistant", "content": said},
    ]


@pytest.mark.parametrize("name", ["ask", "stream", "go_on", "regenerate", "stream_again"])
def test_whatever_asks_takes_the_settings_of_ask(exact, name):
    call = getattr(exact.chat(), name)
    taken, asked = (inspect.signature(each).parameters for each in (call, exact.ask))
    for setting in ("max_new_tokens", "temperature", "top_p", "stop"):
        assert taken[setting] == asked[setting]
    with pytest.raises(PromptError, match="temperature is -1"):
        call(*["Hello."] * ("question" in taken), temperature=-1)


def test_an_answer_cut_at_the_limit_can_be_gone_on_with(exact):
    whole = exact.ask(PICTURES[2], DESCRIBE)
    chat = exact.chat(PICTURES[2])
    first = chat.ask(DESCRIBE, max_new_tokens=5)
    more = "".join(chat.go_on(max_new_tokens=3))
    (turn,) = chat.turns
    assert (turn.answer.tokens, turn.answer.finish) == (8, "limit")
    assert turn.answer.reused_tokens == first.prompt_tokens + first.tokens - 1
    rest = "".join(chat.go_on())
    (turn,) = chat.turns
    assert turn.answer.ids == whole.ids and turn.answer.finish == "eos"
    assert first.text + more + rest == whole.text


def test_a_stream_left_early_is_a_turn_of_what_was_said(exact):
    text = "".join(exact.chat(PICTURES[2]).stream(DESCRIBE))
    chat = exact.chat(PICTURES[2])
    assert text == exact.ask(PICTURES[2], DESCRIBE).text
    for _ in chat.stream(DESCRIBE):
        break
    (turn,) = chat.turns
    assert turn.answer.finish == "stopped" and turn.answer.tokens < 8, turn
    assert chat.ask(COUNT).text == "Three."


def test_undo_takes_back_the_last_turn(exact):
    chat = exact.chat(PICTURES[0])
    for call, message in [
        (chat.undo, "nothing to take back: ask something first"),
        (chat.regenerate, "nothing to answer again"),
        (chat.go_on, "no unfinished answer to go on with"),
    ]:
        with pytest.raises(PromptError, match=message):
            call()
    chat.ask(DESCRIBE)
    chat.ask(COUNT)
    with pytest.raises(PromptError, match="no unfinished answer to go on with"):
        chat.go_on()
    assert chat.undo().question == COUNT
    assert [turn.question for turn in chat.turns] == [DESCRIBE]


def test_regenerate_takes_the_place_of_the_answer(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    torch.manual_seed(0)
    answer = chat.regenerate(temperature=5.0, max_new_tokens=5)
    assert [turn.answer for turn in chat.turns] == [answer]
    text = "".join(chat.stream_again(max_new_tokens=4))
    assert [turn.answer.text for turn in chat.turns] == [text] and chat.turns[0].answer.tokens == 4


def test_an_answer_that_fails_changes_nothing(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    before = list(chat.turns)
    with pytest.raises(PromptError):
        chat.regenerate(max_new_tokens=0)
    with pytest.raises(PromptError, match="The prompt is empty"):
        chat.ask(" ")
    assert chat.turns == before


def test_stop_ends_an_answer_within_two_tokens(exact):
    stop = threading.Event()
    stop.set()
    answer = exact.chat(PICTURES[0]).ask(DESCRIBE, stop=stop)
    assert answer.finish == "stopped" and answer.tokens <= 2, answer


@pytest.fixture
def short(exact, monkeypatch):
    """The same model, said to hold less."""
    config = exact.model.config.get_text_config()
    monkeypatch.setattr(config, "max_position_embeddings", 150)
    return exact


def test_a_full_model_says_by_how_much_and_what_to_do(short):
    chat = short.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    with pytest.raises(
        PromptError, match=r"has \d+ tokens.* holds 150.*chat\.undo\(\).*forget_oldest=True"
    ):
        for _ in range(9):
            chat.ask(DESCRIBE)


def test_the_oldest_turns_can_be_left_out_but_not_a_question_that_is_too_long(short):
    chat = short.chat(PICTURES[0], forget_oldest=True)
    answers = [chat.ask(DESCRIBE, max_new_tokens=16).text for _ in range(6)]
    assert chat.forgotten > 0 and len(chat.turns) == 6
    assert len(set(answers)) == 1, answers
    assert chat.prompt_text(COUNT).count("<image>") == 1
    with pytest.raises(PromptError, match=r"holds 150, the answer included\. Shorten it by"):
        short.chat(PICTURES[0], forget_oldest=True).ask("long " * 200)


def test_a_turn_taken_back_meanwhile_does_not_come_back(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE, max_new_tokens=3)
    pieces = chat.go_on()
    chat.undo()
    list(pieces)
    assert chat.turns == []


@pytest.mark.parametrize("wrap", [list, tuple, iter])
def test_several_pictures_are_laid_side_by_side_with_a_warning(exact, wrap):
    with pytest.warns(UserWarning, match="trained on one picture at a time. These 2 are laid"):
        chat = exact.chat(wrap([PICTURES[0], PICTURES[1]]))
    width, height = PICTURES[0].size
    assert chat.image.height == height and chat.image.width > 2 * width


def test_what_is_no_picture_is_refused_at_once(exact):
    for image, message in [([], "There is no picture in what was given"), ("no.png", "no file")]:
        with pytest.raises(ImageError, match=message):
            exact.chat(image)


def test_a_conversation_without_a_picture(exact):
    chat = exact.chat()
    chat.ask("Hello.")
    assert chat.ask("Hello.").reused_tokens > 0 and chat.image is None


RED, BLUE = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (30, 100), "blue")


def test_side_by_side_they_stand_in_their_order_and_are_of_one_height():
    row = side_by_side([RED, BLUE])
    assert row.size == (200 + 2 + 30, 100)
    found = [row.getpixel((column, 50)) for column in (100, 200, 220)]
    assert found == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_a_row_is_never_large_whatever_its_shapes_are():
    row = side_by_side([Image.new("RGB", (30_000, 10)), Image.new("RGB", (10, 30_000))])
    assert row.width * row.height < 12_000_000
    assert side_by_side([Image.new("RGB", (10, 4000)), RED]).height == HEIGHT
