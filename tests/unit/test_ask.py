"""Asking the embedded model: right answers, streams, stops, settings and faults."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llava_lessons.pictures import SEEDS, scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_nb import Answer, ModelError, PromptError, load, open_image
from llava_nb.images import example_picture
from llava_nb.inference import engine
from llava_nb.inference.answer import Generation, Settings

QUESTION = "Describe this picture."


@pytest.mark.parametrize("name", SEEDS)
def test_bundled_pictures_are_described_rightly(tiny, name):
    picture, caption = tiny.caption_image(example_picture(name), QUESTION)
    assert caption == describe_scene(scene_of(name))
    assert picture.tobytes() == open_image(example_picture(name)).tobytes()


@pytest.mark.parametrize("question", [QUESTION, "How many shapes are there?", "무엇이 보이나요?"])
def test_a_stream_joined_is_the_answer(tiny, picture, question):
    pieces = list(tiny.stream(picture, question))
    assert "".join(pieces) == tiny.ask(picture, question).text
    assert question != QUESTION or len(pieces) > 3, pieces


def test_figures_of_an_answer(tiny, picture, monkeypatch):
    class Tracker(contextlib.nullcontext):
        highest = 123

    answer = tiny.ask(picture, QUESTION)
    assert answer.finish == "eos" and answer.peak_vram_bytes is None
    assert 0 < answer.first_token_seconds <= answer.seconds
    monkeypatch.setattr(engine, "peak_on", lambda device: Tracker(Tracker))
    cut = tiny.ask(picture, QUESTION, max_new_tokens=3)
    assert (cut.tokens, cut.finish, cut.peak_vram_bytes) == (3, "limit", 123)
    assert "stopped at the limit" in str(cut) and "stopped at the limit" in cut._repr_html_()
    with pytest.warns(UserWarning, match=r"limit of 2 tokens; caption_image.*max_new_tokens=4"):
        tiny.caption_image(example_picture(), max_new_tokens=2)


class StopAfter:
    """Becomes set when it has been looked at `count` times: once a token."""

    def __init__(self, count):
        self.left = count

    def is_set(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("count", [0, 3])
def test_stop_ends_within_two_tokens(tiny, picture, count):
    answer = tiny.ask(picture, QUESTION, stop=StopAfter(count))
    assert answer.tokens <= count + 2 and answer.finish == "stopped", answer


def test_leaving_a_stream_early_frees_the_model_for_the_next(tiny, picture):
    pieces = tiny.stream(picture, QUESTION)
    next(pieces)
    pieces.close()
    assert tiny.engine.lock.acquire(blocking=False)
    tiny.engine.lock.release()


def test_a_stream_within_a_stream_and_a_question_within_both(tiny, picture):
    whole = tiny.ask(picture, QUESTION).text
    outer = tiny.stream(picture, QUESTION)
    next(outer)
    inner = tiny.stream(picture, QUESTION)
    assert whole.startswith(next(inner))
    assert tiny.ask(picture, QUESTION).text == whole and "".join(inner)
    outer.close()


def test_a_stop_that_asks_itself_is_answered(tiny, picture):
    class Asks:
        answers = []

        def is_set(self):
            self.answers.append(tiny.ask(picture, QUESTION, max_new_tokens=1).tokens)
            return False

    assert tiny.ask(picture, QUESTION, max_new_tokens=3, stop=Asks()).tokens == 3
    assert Asks.answers == [1, 1, 1]


def test_threads_ask_at_once_and_each_gets_its_answer(tiny):
    names = list(SEEDS)
    alone = [tiny.ask(example_picture(name), QUESTION).text for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        asked = pool.map(lambda name: tiny.ask(example_picture(name), QUESTION).text, names)
        assert list(asked) == alone


def test_an_interrupt_in_the_middle_leaves_the_model_usable(tiny, picture):
    class Interrupts(StopAfter):
        def is_set(self):
            if super().is_set():
                raise KeyboardInterrupt
            return False

    whole = tiny.ask(picture, QUESTION).text
    with pytest.raises(KeyboardInterrupt):
        tiny.ask(picture, QUESTION, stop=Interrupts(2))
    assert tiny.ask(picture, QUESTION).text == whole


def test_a_fault_of_the_model_reaches_whoever_reads_the_stream(tiny, picture, monkeypatch):
    monkeypatch.setattr(tiny.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(tiny.stream(picture, QUESTION))


ODD = ["half \ud83d a llama", "\ud83e\udd99?", "안녕하세요?", "مرحبا", "🦙🌋", "\x00\ufffe"]


@pytest.mark.parametrize("text", [*ODD, "Привет", "</s> <pad> <unk>"])
def test_any_text_in_any_script_gets_an_answer_with_a_picture_or_without(tiny, picture, text):
    assert tiny.ask(picture, text, max_new_tokens=8).tokens > 0
    assert tiny.ask(None, text, max_new_tokens=8).tokens > 0


def test_a_temperature_draws_at_random(tiny, picture):
    drawn = {tiny.ask(picture, QUESTION, temperature=5.0, top_p=1.0).text for _ in range(3)}
    assert len(drawn) > 1, drawn


def test_a_closed_model_says_how_to_get_it_back(picture):
    llava = load("tiny")
    llava.close()
    with pytest.raises(ModelError, match=r'tiny has been closed. Load it again: load\("tiny"\)'):
        llava.ask(picture, QUESTION)
    assert "closed" in repr(llava) and llava.model is None
    with pytest.raises(ModelError, match="has been closed"):
        llava.chat(picture).ask(QUESTION)


def test_a_model_with_another_template_is_asked_in_its_own(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "style", None)
    assert tiny.prompt_text("Hi") == load("tiny").processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}],
        add_generation_prompt=True,
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "it is None. Ask something"),
        (open_image(example_picture()), "type Image, which looks like a picture"),
        (["What?", "Where?"], "type list, not text. .*ask_batch"),
        (b"What?", "type bytes"),
        (5, r"a number \(5\), not text"),
        ("   ", "The prompt is empty"),
        ("<image> <image> What?", "1 picture"),
    ],
)
def test_what_is_no_question_is_named(tiny, picture, prompt, message):
    for ask in (tiny.ask, tiny.stream, tiny.caption_image):
        with pytest.raises(PromptError, match=message):
            ask(picture, prompt)
    with pytest.raises(PromptError, match="no picture was given"):
        tiny.ask(None, "<image>\nWhat is this?")


END = 0


class Bytes:
    """One token a byte, as the worst case of a byte-level tokenizer."""

    def decode(self, ids, skip_special_tokens):
        return bytes(i for i in ids if i != END).decode(errors="replace")


def stream(limit=100, context=50, prompt=3):
    made = Generation([prompt], Bytes(), [END], context, Settings(limit), 0.0)
    made.put(torch.ones(1, prompt, dtype=torch.long))
    return made


def feed(made, text):
    for byte in text.encode():
        made.put(torch.tensor([byte]))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("é!", ["é", "!"]), ("  two words\n\nand 한국어  ", None)],  # half a character is held back
)
def test_pieces_join_to_the_text_with_spaces_and_lines(text, pieces):
    made = stream()
    found = list(made.pieces(lambda: (feed(made, text), made.end())))
    assert "".join(found) == made.answer(0, None).text == text.strip()
    assert pieces is None or found == pieces


@pytest.mark.parametrize(
    ("text", "limit", "finish"),
    [("ab\0", 9, "eos"), ("ab\0", 3, "eos"), ("ab", 2, "limit"), ("ab", 9, "stopped")],
)
def test_how_an_answer_finished(text, limit, finish):
    made = stream(limit=limit)
    feed(made, text)
    answer = made.answer(0, None)
    assert (answer.text, answer.finish) == ("ab", finish)
    assert stream(limit=100, context=50, prompt=3).limit == 47, "what the context leaves"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0.0, None), "max_new_tokens is 0.*a whole number from 1 on"),
        ((2.5, 0.0, None), "max_new_tokens is 2.5"),
        ((5, -1, None), "temperature is -1; take 0"),
        ((5, 0.5, 0), "top_p is 0; take a share"),
        ((True, 0.0, None), "max_new_tokens is True"),
        ((5, "warm", None), "temperature is 'warm'"),
        ((5, float("nan"), None), "temperature is nan"),
        ((5, 0.0, None, True), r"stop is True; .*threading.Event\(\)"),
        ((5, 0.0, 0.9), "give a temperature as well"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(PromptError, match=message):
        Settings(*settings)


@pytest.mark.parametrize("same", [(5.0, None, 1), ("5", "0", "1.0"), (5, 1e-300, None)])
def test_numbers_count_however_they_came(same):
    assert Settings(*same).arguments == {"do_sample": False} and Settings(*same).max_new_tokens == 5


def answer(**changes):
    figures = {"tokens": 20, "seconds": 4.0, "first_token_seconds": 0.5, "finish": "eos"}
    return Answer(**{"text": "A cat.", **figures, **changes})


def test_shown_it_is_the_text_and_its_figures():
    assert str(answer()) == "A cat.\n(20 tokens in 4.0 s, 5.0 tokens/s, first after 0.5 s)"
    assert "peak 2.50 GiB of VRAM" in answer(peak_vram_bytes=5 * 2**29).summary
    assert "20 tokens in 0.0 s, 0.0 tokens/s" in answer(seconds=0.0).summary
    assert "&lt;img src=x&gt;" in answer(text="<img src=x>")._repr_html_()
