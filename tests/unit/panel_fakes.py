"""A model of a few lines with the interface that the panel uses: quick, and wrong on demand."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from llava_nb import Answer, PromptError


class FakeChat:
    """Says what it was asked about, word by word; keeps its turns as `Chat` does."""

    def __init__(self, llava, image):
        self.llava, self.image, self.turns = llava, image, []

    def stream(self, question, **settings):
        words = f"{self.image.size} {question} no {len(self.turns)}".split(" ")
        yield from self._say(question, words, 0, **settings)

    def go_on(self, **settings):
        if not self.turns or self.turns[-1].answer.finish == "eos":
            raise PromptError("There is no unfinished answer.")
        turn = self.turns[-1]
        words = f"{self.image.size} {turn.question} no {len(self.turns) - 1}".split(" ")
        yield from self._say(turn.question, words, turn.answer.tokens, in_place=True, **settings)

    def stream_again(self, **settings):
        question = self.turns[-1].question
        words = f"{self.image.size} {question} no {len(self.turns) - 1}".split(" ")
        yield from self._say(question, words, 0, in_place=True, **settings)

    def _say(
        self, question, words, said, *, in_place=False, max_new_tokens=256, stop=None, **settings
    ):
        self.llava.asked.append((question, settings))
        done = said
        while done < len(words) and done - said < max_new_tokens and not stop.is_set():
            self.llava.before_word(done)
            yield (" " if done else "") + words[done]
            done += 1
        finish = "stopped" if stop.is_set() else "limit"
        finish = "eos" if done == len(words) else finish
        answer = Answer(" ".join(words[:done]), done, 0.5, 0.1, None, finish)
        if in_place:
            self.turns.pop()
        self.turns.append(SimpleNamespace(question=question, answer=answer))


class FakeLlava:
    """`fail_at` raises `fault` before that word; `gate` is waited for before each word."""

    name, quantization, device, closed = "fake", "4bit", "cpu", False

    def __init__(self):
        self.processor = SimpleNamespace(image_processor=SimpleNamespace(do_pad=True))
        self.asked, self.chats = [], []
        self.fail_at, self.fault = None, ValueError("<b>broken</b>")
        self.gate = threading.Event()
        self.gate.set()

    def chat(self, image, *, forget_oldest=False):
        self.chats.append(FakeChat(self, image))
        return self.chats[-1]

    def before_word(self, number):
        if self.fail_at == number:
            raise self.fault
        self.gate.wait()


def no_report(llava):
    """In place of `vram_report`: a fake model has no memory to report."""
    figures = {"total_bytes": 8 * 2**30, "free_bytes": 5 * 2**30, "parts": {"projector": 2**30}}
    return SimpleNamespace(
        memory="RAM", owner="this machine", _repr_html_=lambda: "<b>memory</b>", **figures
    )


def wait_until(holds, seconds=20.0):
    """Wait for what another thread brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)
