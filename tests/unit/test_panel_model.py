"""The panel with the real embedded model: what is shown is what the model was told and said."""

import random

import pytest

import llava_nb
from llava_lessons.pictures import scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_nb import caption_panel
from llava_nb.images import example_picture

DESCRIBE, COUNT = "Describe this picture.", "How many things are there?"
THREE = "three_shapes.png"


@pytest.fixture
def panel(tiny):
    made = caption_panel(tiny)
    made.choose(example_picture(THREE))
    return made


def test_a_bundled_picture_is_described_rightly(panel):
    assert panel.ask(DESCRIBE)[0].text == describe_scene(scene_of(THREE))


def test_the_panel_answers_as_the_model_does(panel, tiny):
    chat = tiny.chat(example_picture(THREE))
    for question in (DESCRIBE, COUNT, "What is on the left?"):
        assert panel.ask(question)[0].text == chat.ask(question).text


def test_a_follow_up_does_not_read_the_picture_again(panel):
    panel.ask(DESCRIBE)
    answer = panel.ask(COUNT)[0].answer
    assert answer.reused_tokens > 64, answer


@pytest.mark.parametrize("tokens", [1, 5])
def test_an_answer_gone_on_with_is_the_whole_answer(panel, tiny, tokens):
    panel.ask(DESCRIBE, max_new_tokens=tokens)
    while "more" in panel.state.can:
        panel.controls.more.click()
        panel.wait()
    (entry,) = panel.history
    assert entry.text == tiny.ask(example_picture(THREE), DESCRIBE).text and entry.finish == "eos"


def test_the_memory_and_the_model_line_are_those_of_this_model(panel, tiny):
    controls = panel.controls
    panel.ask(DESCRIBE)
    assert "language model" in controls.details.value and "GiB" in controls.memory.value
    assert f"<b>{tiny.name}</b> in 4 bits on the CPU · " in controls.model.value


def test_a_closed_model_is_told_in_the_panel():
    from llava_nb import load

    other = load("tiny", quantization=None)
    panel = caption_panel(other)
    panel.choose(example_picture(THREE))
    other.close()
    (entry,) = panel.ask(DESCRIBE)
    assert entry.finish == "failed" and "Load it again" in entry.error
    assert "has been closed" in panel.controls.model.value


def test_two_prompt_styles_are_compared_and_the_second_leaves_no_trace(panel, tiny):
    first, second = panel.compare(DESCRIBE, style="chatml")
    assert first.text == describe_scene(scene_of(THREE)) and tiny.style == "vicuna_v1"
    assert second.settings["style"] == "chatml" and second.finish != "failed"
    assert panel.ask(COUNT)[0].answer.reused_tokens > 64


def test_a_second_form_answers_beside(panel, tiny):
    other = llava_nb.load("tiny", quantization=None, alone=False)
    first, second = panel.compare(DESCRIBE, other=other)
    other.close()
    assert first.text == second.text == describe_scene(scene_of(THREE))
    assert second.variant == "tiny unquantised" and not tiny.closed


def test_a_conversation_brought_back_goes_on(panel, tiny):
    panel.ask(DESCRIBE)
    again = caption_panel(tiny)
    again.controls.resume.click()
    chat = tiny.chat(example_picture(THREE))
    chat.ask(DESCRIBE)
    assert again.ask(COUNT)[0].text == chat.ask(COUNT).text


@pytest.mark.parametrize("seed", range(3))
def test_what_is_shown_is_what_the_model_was_told(panel, seed):
    chosen = random.Random(seed)
    controls = panel.controls
    for _ in range(12):
        action = chosen.choice(["ask", "ask", "short", "more", "again", "fail", "clear"])
        if action in ("ask", "short"):
            panel.ask(
                chosen.choice([DESCRIBE, COUNT]), max_new_tokens=3 if action == "short" else 64
            )
        elif action == "fail":
            panel.ask("x" * 20_000)
        else:
            getattr(controls, action).click()
            panel.wait()
    (conversation,) = panel.state.conversations
    shown = [(entry.prompt, entry.text) for entry in conversation.answered]
    chat = panel._worker._chats.get(conversation.key)
    assert shown == [(turn.question, turn.answer.text) for turn in (chat.turns if chat else [])]
