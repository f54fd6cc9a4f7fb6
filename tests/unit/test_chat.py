"""Conversations with the real embedded model: the same answers, read once."""

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

DESCRIBE, COUNT, COLOUR = (
    "Describe this picture.",
    "How many things are there?",
    "What is its colour?",
)
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
    inputs = encode(llava.processor, [chat.image], [text], llava.engine.spelling)
    made = llava.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return text, made[0, inputs["input_ids"].shape[1] :].tolist()


class Reads:
    """Counts how often the vision tower runs."""

    def __init__(self, llava):
        self.count = 0
        self._hook = llava.model.model.vision_tower.register_forward_hook(self._note)

    def _note(self, *_):
        self.count += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hook.remove()


def test_a_picture_is_read_once_in_a_conversation(exact):
    with Reads(exact) as reads:
        chat = exact.chat(PICTURES[0])
        for question in QUESTIONS:
            chat.ask(question)
    assert reads.count == 1


def test_of_a_follow_up_only_the_new_words_are_read(exact):
    chat = exact.chat(PICTURES[1])
    first, second = chat.ask(DESCRIBE), chat.ask(COUNT)
    # All but the last token of the first answer has been read already.
    assert second.reused_tokens == first.prompt_tokens + first.tokens - 1


def test_ask_reads_a_picture_just_seen_no_second_time(exact):
    with Reads(exact) as reads:
        answers = [exact.ask(PICTURES[0], question) for question in QUESTIONS]
    assert reads.count == 1
    assert [answer.reused_tokens > 0 for answer in answers] == [False, True, True, True, True]


def test_conversations_about_one_picture_share_it(exact):
    with Reads(exact) as reads:
        for question in QUESTIONS:
            exact.chat(PICTURES[0]).ask(question)
    assert reads.count == 1


def test_a_question_gives_the_same_numbers_whether_its_picture_is_known_or_not(tiny):
    tiny.prefixes.clear()
    logits = []
    hook = tiny.model.lm_head.register_forward_hook(lambda *call: logits.append(call[2].clone()))
    try:
        first, again = tiny.ask(PICTURES[2], DESCRIBE), tiny.ask(PICTURES[2], DESCRIBE)
    finally:
        hook.remove()
    assert again.reused_tokens and first.ids == again.ids
    half = len(logits) // 2
    differences = [
        (one - two).abs().max().item()
        for one, two in zip(logits[:half], logits[half:], strict=True)
    ]
    assert max(differences) == 0, differences


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
    prompt = chat.prompt_text(COUNT)
    assert prompt.endswith(
        f"USER: <image>\n{DESCRIBE} ASSISTANT: {said}</s>USER: {COUNT} ASSISTANT:"
    ), prompt


def test_messages_are_what_was_said(exact):
    chat = exact.chat(PICTURES[0])
    answer = chat.ask(COUNT)
    assert chat.messages == [
        {"role": "user", "content": COUNT},
        {"role": "assistant", "content": answer.text},
    ]


def test_a_stream_joined_is_the_answer_and_becomes_a_turn(exact):
    chat = exact.chat(PICTURES[0])
    text = "".join(chat.stream(DESCRIBE))
    assert text == chat.turns[0].answer.text == exact.ask(PICTURES[0], DESCRIBE).text


def test_an_answer_cut_at_the_limit_can_be_gone_on_with(exact):
    whole = exact.ask(PICTURES[2], DESCRIBE)
    chat = exact.chat(PICTURES[2])
    first = chat.ask(DESCRIBE, max_new_tokens=5)
    rest = "".join(chat.go_on())
    (turn,) = chat.turns
    assert turn.answer.ids == whole.ids and turn.answer.finish == "eos"
    assert first.text + rest == whole.text
    assert turn.answer.reused_tokens == first.prompt_tokens + first.tokens - 1


def test_it_can_be_cut_again(exact):
    chat = exact.chat(PICTURES[2])
    chat.ask(DESCRIBE, max_new_tokens=5)
    list(chat.go_on(max_new_tokens=3))
    assert (chat.turns[0].answer.tokens, chat.turns[0].answer.finish) == (8, "limit")


def test_a_finished_answer_is_not_gone_on_with(exact):
    chat = exact.chat(PICTURES[2])
    for _ in range(2):
        with pytest.raises(PromptError, match="no unfinished answer to go on with"):
            chat.go_on()
        chat.ask(COUNT)


def test_a_stream_left_early_is_a_turn_of_what_was_said(exact):
    chat = exact.chat(PICTURES[2])
    for _ in chat.stream(DESCRIBE):
        break
    (turn,) = chat.turns
    assert turn.answer.finish == "stopped" and turn.answer.tokens < 8, turn
    assert chat.ask(COUNT).text == "Three."


def test_undo_takes_back_the_last_turn(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    chat.ask(COUNT)
    assert chat.undo().question == COUNT
    assert [turn.question for turn in chat.turns] == [DESCRIBE]


def test_undo_of_nothing_says_so(exact):
    with pytest.raises(PromptError, match=r"nothing to take back: ask something first"):
        exact.chat(PICTURES[0]).undo()


def test_regenerate_takes_the_place_of_the_answer(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    torch.manual_seed(0)
    answer = chat.regenerate(temperature=5.0, max_new_tokens=5)
    assert [turn.answer for turn in chat.turns] == [answer]


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


def test_the_oldest_turns_can_be_left_out(short):
    chat = short.chat(PICTURES[0], forget_oldest=True)
    answers = [chat.ask(DESCRIBE, max_new_tokens=16).text for _ in range(6)]
    assert chat.forgotten > 0 and len(chat.turns) == 6
    assert len(set(answers)) == 1, answers
    assert chat.prompt_text(COUNT).count("<image>") == 1


def test_a_single_question_that_is_too_long_is_refused_even_so(short):
    with pytest.raises(PromptError, match=r"holds 150, the answer included\. Shorten it by"):
        short.chat(PICTURES[0], forget_oldest=True).ask("long " * 200)


def test_a_streamed_answer_takes_the_place_of_the_last(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE)
    text = "".join(chat.stream_again(max_new_tokens=4))
    assert [turn.answer.text for turn in chat.turns] == [text] and chat.turns[0].answer.tokens == 4


def test_a_turn_taken_back_meanwhile_does_not_come_back(exact):
    chat = exact.chat(PICTURES[0])
    chat.ask(DESCRIBE, max_new_tokens=3)
    pieces = chat.go_on()
    chat.undo()
    list(pieces)
    assert chat.turns == []


def test_nothing_to_answer_again_is_told(exact):
    with pytest.raises(PromptError, match="nothing to answer again"):
        exact.chat().regenerate()


def test_several_pictures_are_laid_side_by_side_with_a_warning(exact):
    with pytest.warns(UserWarning, match="trained on one picture at a time. These 2 are laid"):
        chat = exact.chat([PICTURES[0], PICTURES[1]])
    width, height = PICTURES[0].size
    assert chat.image.height == height and chat.image.width > 2 * width


@pytest.mark.parametrize("wrap", [tuple, iter])
def test_several_pictures_may_come_as_any_row(exact, wrap):
    pictures = wrap([PICTURES[0], PICTURES[1]])
    with pytest.warns(UserWarning, match="These 2 are laid"):
        assert exact.chat(pictures).image.width > 2 * PICTURES[0].width


def test_no_picture_in_a_list_is_told(exact):
    with pytest.raises(ImageError, match="There is no picture in what was given"):
        exact.chat([])


def test_a_conversation_without_a_picture(exact):
    chat = exact.chat()
    chat.ask("Hello.")
    assert chat.ask("Hello.").reused_tokens > 0 and chat.image is None


def test_a_picture_that_cannot_be_read_is_refused_at_once(exact):
    with pytest.raises(ImageError, match="no file"):
        exact.chat("nowhere.png")


RED, BLUE = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (30, 100), "blue")


def test_side_by_side_they_stand_in_their_order_and_are_of_one_height():
    row = side_by_side([RED, BLUE])
    assert row.size == (200 + 2 + 30, 100)
    assert row.getpixel((100, 50)) == (255, 0, 0) and row.getpixel((220, 50)) == (0, 0, 255)


def test_between_them_is_white():
    assert side_by_side([RED, BLUE]).getpixel((200, 50)) == (255, 255, 255)


def test_high_pictures_are_made_smaller():
    assert side_by_side([Image.new("RGB", (10, 4000)), RED]).height == HEIGHT


def test_a_row_is_never_large_whatever_its_shapes_are():
    row = side_by_side([Image.new("RGB", (30_000, 10)), Image.new("RGB", (10, 30_000))])
    assert row.width * row.height < 12_000_000
