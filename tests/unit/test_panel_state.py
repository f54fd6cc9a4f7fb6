"""The panel's session: random sequences of what can happen, and what follows from each."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_nb import Answer
from llava_nb.panel.state import ANSWERING, IDLE, LOADING, OPENING, STOPPING, Entry, Job, Session


@dataclasses.dataclass(frozen=True)
class Picture:
    name: str
    thumbnail: str = ""


def answer(text, finish="eos", seconds=1.0):
    return Answer(text, len(text.split()), seconds, 0.1, None, finish)


class World:
    """A session and jobs that report whenever they are told to, also when they were given up."""

    def __init__(self, has_model=True):
        self.session, self.jobs, self.made = Session(has_model), [], 0

    def do(self, change, *arguments):
        before = self.session
        self.session = change(before, *arguments)
        if self.session.job is not before.job and self.session.phase != IDLE:
            self.jobs.append((self.session.job, list(self.session.job.questions)))
        self.check(before)

    def report(self, which, outcome):
        """Let one of the jobs report its next step; it ends once nothing is left."""
        if not self.jobs:
            return
        job, questions = self.jobs[which]
        before = self.session
        is_live = job is before.job and before.phase != IDLE
        if outcome == "ticked":
            self.do(Session.ticked, job, 1.0)
        elif job.model:
            self.jobs.pop(which)
            self.do(*((Session.tell, "no") if outcome == "failed" else (Session.loaded, job)))
            self.do(Session.ended, job)
        elif job.sources:
            bad = outcome == "failed"
            opened = () if bad else tuple(Picture(name) for name in job.sources)
            self.jobs.pop(which)
            self.do(Session.opened, job, opened, ("unreadable",) if bad else ())
            self.do(Session.ended, job)
        elif not questions or outcome == "ended":
            if not questions:  # else it goes on reporting: a job that was thought to have ended
                self.jobs.pop(which)
            self.do(Session.ended, job)
        elif outcome == "piece":
            self.do(Session.piece, questions[0], f"piece about {questions[0].picture}")
        else:
            self.end(questions.pop(0), outcome)
        told = job.model and outcome == "failed"
        assert is_live or told or self.session is before, "what was given up came back"

    def end(self, question, outcome):
        self.made += 1
        before = f"{question.text} + " if question.how == "more" else ""
        text = f"{before}answer {self.made} about {question.picture}"
        if outcome == "failed":
            self.do(Session.failed, question, "out of order")
        else:
            self.do(Session.answered, question, answer(text, outcome))

    def check(self, before):
        session = self.session
        assert len(session.history) >= len(before.history), "a row of the record was lost"
        for old, new in zip(before.history, session.history, strict=False):
            assert new.text.startswith(old.text), (old, new)
        shown = []
        for each in session.conversations:
            for entry in each.entries:
                about = (entry.key, entry.picture)
                assert about == (each.key, each.picture.name), "shown for another picture"
            turns = [entry.turn for entry in each.entries]
            assert turns == sorted(turns), "the conversation is out of order"
            assert len({entry.turn for entry in each.answered}) == len(each.answered), "twice"
            shown += each.entries
        for entry in (*session.history, *shown):
            assert not entry.text or entry.text.endswith(f"about {entry.picture}"), entry
        can = session.can or not session.stoppable or session.phase in (STOPPING, LOADING)
        assert can, "nothing can be pressed"
        assert "stop" not in session.can or session.phase != IDLE
        assert "ask" not in session.can or session.has_model

    def drain(self):
        for _ in range(200):
            if not self.jobs:
                return
            self.report(0, "eos")


def asked(prompt="What is this?"):
    return Session.ask, Entry(prompt=prompt)


def compared(prompt="What is this?"):
    return (*asked(prompt), Entry(prompt=prompt, how="beside", variant="hot"))


def chosen(*names, then_ask=()):
    return Session.choose, names, "the picture", then_ask


AGAIN, MORE = (Session.regenerate, Entry()), (Session.go_on, Entry())
STOP, CLEAR, LOAD = (Session.stop,), (Session.clear,), (Session.load, "tiny")


def a_session_of_before():
    world = World()
    for each in (chosen("cat", "ant"), compared("Before?")):
        world.do(*each)
        world.drain()
    return world.session


BEFORE = a_session_of_before()
names = st.lists(st.sampled_from(["cat", "dog", "emu"]), min_size=1, max_size=3, unique=True)
prompts = st.sampled_from(["", "Why?", "Who?"])
clicks = st.one_of(
    names.map(lambda some: chosen(*some)),
    st.builds(lambda some, prompt: chosen(*some, then_ask=asked(prompt)[1:]), names, prompts),
    prompts.map(asked),
    prompts.map(compared),
    st.sampled_from([AGAIN, MORE, STOP, CLEAR, LOAD, (Session.tell, "hello")]),
    prompts.map(lambda prompt: (Session.resume, BEFORE)),
    st.sampled_from(["", "What?"]).map(lambda text: (Session.typed, text)),
)
outcomes = st.sampled_from(
    ["eos", "limit", "stopped", "piece", "failed", "ticked", "ended", "ended"]
)
# The oldest job that still reports, or the newest.
reports = st.tuples(st.sampled_from([0, -1]), outcomes)
# A picture, opened at once, and a question: so that many sequences get far.
rounds = names.map(lambda some: [chosen(*some), (-1, "eos"), asked("?")])
happenings = st.lists(
    st.one_of(rounds, clicks.map(lambda click: [click]), st.lists(reports, min_size=1, max_size=4)),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), happenings)
def test_no_order_of_events_loses_or_mixes_anything_up(has_model, happenings):
    world = World(has_model)
    for each in sum(happenings, []):
        if callable(each[0]):
            world.do(*each)
        else:
            world.report(*each)
    world.drain()
    assert world.session.phase == IDLE, "the panel is stuck"
    if not world.session.has_model:
        world.do(*LOAD)
        world.drain()
    world.do(*chosen("fox"))
    world.drain()
    number = len(world.session.history)
    world.do(*asked())
    world.drain()
    assert world.session.history[number].text.endswith("about fox")


def after(*happenings):
    """A world with one picture, after these; the name of an outcome lets the job go on."""
    world = World()
    world.do(*chosen("cat"))
    for each in ("eos", *happenings):
        if isinstance(each, str):
            world.report(-1, each)
        else:
            world.do(*each)
    return world


def shown(world):
    """The picture, and the texts below it."""
    (conversation,) = world.session.conversations
    return conversation.picture.name, [entry.text for entry in conversation.entries]


def test_a_question_without_a_picture_says_so():
    world = World()
    world.do(*asked())
    assert world.session.phase == IDLE and world.session.notice.text == "no_picture"
    assert world.session.draft == "What is this?"


def test_an_empty_question_says_so():
    world = after(asked("  "))
    assert world.session.phase == IDLE and world.session.notice.text == "no_question"


def test_a_question_while_the_picture_is_opened_waits_for_it():
    world = World()
    world.do(*chosen("cat"))
    world.do(*asked())
    assert world.session.phase == OPENING
    world.report(0, "eos")
    assert world.session.phase == ANSWERING and world.session.todo[0].prompt == "What is this?"


@pytest.mark.parametrize("click", [asked(), AGAIN, CLEAR])
def test_a_click_while_busy_changes_nothing_but_the_notice(click):
    world = after(asked())
    before = world.session
    world.do(*click)
    assert world.session.notice.text == "busy"
    kept = {"notice": before.notice, "draft": before.draft}
    assert dataclasses.replace(world.session, **kept) == before


def test_a_picture_chosen_while_busy_comes_afterwards():
    world = after(asked(), chosen("dog"))
    assert shown(world) == ("cat", [])
    world.drain()
    assert shown(world) == ("dog", []) and world.session.history[0].picture == "cat"


def test_a_picture_given_up_does_not_appear_later():
    world = after(chosen("dog"), STOP)
    world.drain()
    assert shown(world) == ("cat", [])


def test_a_picture_that_cannot_be_opened_leaves_what_is_shown():
    world = after(asked(), "eos", "ended", chosen("dog"), "failed")
    assert shown(world) == ("cat", ["answer 1 about cat"])
    assert world.session.notice.kind == "error"


def test_what_an_earlier_job_still_reports_is_ignored():
    world = after(asked(), "ended")
    job, (question,) = world.jobs[-1][0], world.jobs[-1][0].questions
    for each in (chosen("dog"), asked()):
        world.do(*each)
        world.report(-1, "piece")
    before = world.session
    world.do(Session.piece, question, "x")
    world.do(Session.answered, question, answer("x"))
    world.do(Session.failed, question, "x")
    world.do(Session.ended, job)
    world.do(Session.opened, Job(("cat",)), (Picture("cat"),))
    assert world.session == before


def test_another_picture_begins_another_conversation():
    world = after(asked("Which breed?"), "eos", "ended", chosen("dog"), "eos")
    assert shown(world) == ("dog", []) and len(world.session.history) == 1
    assert world.session.draft == "Which breed?", "the same first question is offered"


def test_a_follow_up_does_not_become_the_first_question():
    world = after(asked("Which breed?"), "eos", "ended", asked("And how old?"), "eos", "ended")
    world.do(*CLEAR)
    assert world.session.draft == "Which breed?"


def test_what_is_typed_while_the_answer_comes_stays():
    world = after(asked(), (Session.typed, "And who?"), "failed", "ended")
    assert world.session.draft == "And who?"


def test_a_failed_question_goes_back_into_the_box():
    world = after(asked(), "piece", "failed", "ended")
    entry = world.session.history[0]
    assert world.session.draft == "What is this?" and world.session.phase == IDLE
    assert (entry.finish, entry.text, entry.error) == ("failed", "piece about cat", "out of order")


def test_stop_ends_the_round_and_names_who_was_not_asked():
    world = World()
    world.do(*chosen("cat", "dog"))
    world.drain()
    world.do(*asked())
    world.do(*STOP)
    world.report(0, "stopped")
    world.report(0, "ended")
    assert world.session.phase == IDLE and world.session.notice.text == "stopped_before"
    assert world.session.notice.about == "dog"


def test_continue_takes_the_place_of_the_cut_answer():
    world = after(asked(), "limit", "ended", MORE, "eos", "ended")
    (entry,) = world.session.history
    assert entry.text == "answer 1 about cat + answer 2 about cat"
    assert shown(world) == ("cat", [entry.text])
    assert entry.answer.seconds == 2.0, "its seconds are those of both parts"


@pytest.mark.parametrize("finish", ["limit", "stopped", "eos"])
def test_continue_is_offered_for_cut_answers_only(finish):
    assert ("more" in after(asked(), finish, "ended").session.can) is (finish != "eos")


def test_a_failed_continue_keeps_the_answer_and_can_be_tried_again():
    world = after(asked(), "limit", "ended", MORE, "failed", "ended")
    assert [entry.finish for entry in world.session.history] == ["limit", "failed"]
    world.do(*AGAIN)
    assert world.session.todo[0].how == "more"
    world.drain()
    assert shown(world) == ("cat", ["answer 1 about cat + answer 3 about cat"])


def test_regenerate_replaces_what_is_shown_and_keeps_both_in_the_record():
    world = after(asked(), "eos", "ended", AGAIN, "eos", "ended")
    assert shown(world) == ("cat", ["answer 2 about cat"]) and len(world.session.history) == 2


def test_regenerate_after_a_failure_asks_the_failed_question():
    world = after(asked(), "eos", "ended", asked("Who?"), "failed", "ended", AGAIN)
    assert (world.session.todo[0].how, world.session.todo[0].prompt) == ("ask", "Who?")


def test_a_thread_that_vanishes_leaves_a_failed_entry():
    world = after(asked(), "piece", "ended")
    assert world.session.phase == IDLE and world.session.history[0].finish == "failed"


def test_clear_forgets_the_conversation_and_keeps_the_picture_and_the_record():
    world = after(asked(), "eos", "ended")
    key = world.session.conversations[0].key
    world.do(*CLEAR)
    assert shown(world) == ("cat", []) and len(world.session.history) == 1
    assert world.session.conversations[0].key != key


def test_an_answer_for_comparison_is_not_gone_on_from():
    world = after(compared("Why?"), "eos", "eos", "ended")
    (conversation,) = world.session.conversations
    assert [entry.variant for entry in conversation.entries] == ["", "hot"]
    assert [entry.text for entry in conversation.answered] == ["answer 1 about cat"]
    assert len({entry.turn for entry in conversation.entries}) == 1


def test_regenerate_leaves_what_was_compared_beside():
    world = after(compared(), "eos", "eos", "ended", AGAIN, "eos", "ended")
    (conversation,) = world.session.conversations
    texts = {entry.variant: entry.text for entry in conversation.entries}
    assert texts == {"": "answer 3 about cat", "hot": "answer 2 about cat"}


def test_one_of_two_that_fails_leaves_the_other():
    world = after(compared(), "failed", "eos", "ended")
    (conversation,) = world.session.conversations
    assert [entry.finish for entry in conversation.entries] == ["failed", "eos"]


def test_stop_can_be_pressed_after_a_moment_only():
    world = after(asked())
    assert "stop" not in world.session.can
    world.report(-1, "ticked")
    assert "stop" in world.session.can and world.session.seconds == 1


def test_seconds_are_those_of_the_answer_under_way():
    world = after(compared(), "ticked", "eos")
    assert world.session.seconds == 0 and len(world.session.todo) == 1


def test_a_picture_chosen_while_a_model_is_loaded_comes_afterwards():
    world = World(has_model=False)
    world.do(*LOAD)
    world.do(*chosen("dog"))
    world.drain()
    assert world.session.has_model and shown(world) == ("dog", [])


def test_a_model_that_cannot_be_loaded_can_be_tried_again():
    world = World(has_model=False)
    world.do(*LOAD)
    world.report(-1, "failed")
    assert world.session.phase == IDLE and "load" in world.session.can


def test_another_session_is_taken_over_by_an_empty_one_only():
    world = World()
    world.do(Session.resume, BEFORE)
    assert world.session.history == BEFORE.history
    world = after(asked(), "eos", "ended")
    world.do(Session.resume, BEFORE)
    assert len(world.session.history) == 1
