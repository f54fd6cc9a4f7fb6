"""The panel's state machine: random sequences of events, and what each event does."""

import dataclasses
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from llava_nb import Answer
from llava_nb.panel import events as events
from llava_nb.panel.data import ANSWERING, IDLE, OPENING, STOPPING, PanelState
from llava_nb.panel.state import step

SETTINGS = {"max_new_tokens": 256, "temperature": 0.0, "top_p": None, "crop": False}


@dataclass(frozen=True)
class Picture:
    name: str
    crop: bool = False
    thumbnail: bytes = b""

    def framed(self, crop):
        return dataclasses.replace(self, crop=crop)


def answer(text, finish="eos", seconds=1.0):
    return Answer(text, len(text.split()), seconds, 0.1, None, finish)


class World:
    """The machine and a worker that reports whenever it is told to, also on jobs given up."""

    def __init__(self):
        self.state, self.jobs, self.made = PanelState(), [], 0

    def do(self, event):
        before = self.state
        self.state, effect = step(self.state, event)
        if isinstance(effect, events.OpenPictures):
            self.jobs.append([effect, None])
            self.chosen = effect
        elif isinstance(effect, events.Begin):
            self.jobs.append([effect, list(effect.tasks)])
        self.check(before)

    def report(self, which, outcome):
        """Let one of the jobs report its next step; it ends once nothing is left."""
        if not self.jobs:
            return
        job = self.jobs[which % len(self.jobs)]
        effect, tasks = job
        if tasks is None:
            bad = outcome == "failed"
            opened = () if bad else tuple(Picture(name) for name in effect.sources)
            before = self.state.subjects
            self.jobs.remove(job)
            self.do(events.Opened(effect.job, opened, ("unreadable",) if bad else ()))
            if self.state.subjects is not before:
                assert effect is self.chosen, "a picture given up came back"
            self.do(events.Ended(effect.job))
        elif not tasks or outcome == "ended":
            if not tasks:  # else it goes on reporting: a job that was thought to have ended
                self.jobs.remove(job)
            self.do(events.Ended(effect.job))
        elif outcome == "piece":
            self.do(events.Piece(effect.job, f"piece about {tasks[0].entry.picture}"))
        else:
            self.end(effect.job, tasks.pop(0), outcome)

    def end(self, job, task, outcome):
        self.made += 1
        before = f"{task.entry.text} + " if task.entry.how == "more" else ""
        text = f"{before}answer {self.made} about {task.entry.picture}"
        if outcome == "failed":
            self.do(events.Failed(job, "out of order"))
        else:
            self.do(events.Answered(job, answer(text, outcome)))

    def check(self, before):
        state = self.state
        assert len(state.history) >= len(before.history), "a row of the record was lost"
        for old, new in zip(before.history, state.history, strict=False):
            assert new.text.startswith(old.text), (old, new)
        on_desk = {subject.key: subject.picture.name for subject in state.subjects}
        for entry in state.talk:
            assert on_desk[entry.key] == entry.picture, "an answer is shown for another picture"
        for entry in (*state.history, *state.talk):
            assert not entry.text or entry.text.endswith(f"about {entry.picture}"), entry
        assert state.can or state.phase == STOPPING, "nothing can be pressed"

    def drain(self):
        for _ in range(200):
            if not self.jobs:
                return
            self.report(0, "eos")


names = st.lists(st.sampled_from(["cat", "dog", "emu"]), min_size=1, max_size=3, unique=True)
ask = st.builds(events.Ask, st.just(SETTINGS), question=st.sampled_from([None, "", "Why?", "Who?"]))
clicks = st.one_of(
    names.map(lambda chosen: events.Choose(tuple(chosen))),
    st.tuples(names, ask).map(lambda both: events.Choose(tuple(both[0]), then_ask=both[1])),
    ask,
    st.just(events.Again(SETTINGS)),
    st.just(events.More(SETTINGS)),
    st.just(events.Stop()),
    st.just(events.Clear()),
    st.just(events.Displayed()),
    st.booleans().map(events.Reframe),
    st.sampled_from(["", "What?"]).map(events.Typed),
    st.just(events.Tell("hello")),
)
outcomes = st.sampled_from(["eos", "limit", "stopped", "piece", "failed", "ended", "ended"])
# The oldest job that still reports, or the newest.
reports = st.tuples(st.sampled_from([0, -1]), outcomes)
# A picture, opened at once, and a question: so that many sequences get far.
rounds = names.map(
    lambda chosen: [events.Choose(tuple(chosen)), (-1, "eos"), events.Ask(SETTINGS, question="?")]
)
happenings = st.lists(
    st.one_of(rounds, clicks.map(lambda click: [click]), st.lists(reports, min_size=1, max_size=4)),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(happenings)
def test_no_order_of_events_loses_or_mixes_anything_up(happenings):
    world = World()
    for each in sum(happenings, []):
        if isinstance(each, tuple):
            world.report(*each)
        else:
            world.do(each)
    world.drain()
    assert world.state.phase == IDLE, "the panel is stuck"
    world.do(events.Choose(("fox",)))
    world.drain()
    asked = len(world.state.history)
    world.do(events.Ask(SETTINGS, question="What is this?"))
    world.drain()
    assert world.state.history[asked].text.endswith("about fox")


def after(*happenings):
    """A world with one picture, after these events; ("report", outcome) lets the worker go on."""
    world = World()
    world.do(events.Choose(("cat",)))
    world.report(0, "eos")
    for each in happenings:
        if isinstance(each, str):
            world.report(-1, each)
        else:
            world.do(each)
    return world


def asked(question="What is this?"):
    return events.Ask(SETTINGS, question=question)


def test_a_question_without_a_picture_says_so():
    world = World()
    world.do(asked())
    assert world.state.phase == IDLE and "picture first" in world.state.notice.text
    assert world.state.draft == "What is this?"


def test_an_empty_question_says_so():
    world = after(asked("  "))
    assert world.state.phase == IDLE and "question first" in world.state.notice.text


def test_a_question_while_the_picture_is_opened_waits_for_it():
    world = World()
    world.do(events.Choose(("cat",)))
    world.do(asked())
    assert world.state.phase == OPENING
    world.report(0, "eos")
    assert world.state.phase == ANSWERING
    assert world.state.todo[0].entry.prompt == "What is this?"


def test_a_click_while_busy_changes_nothing_but_the_notice():
    world = after(asked())
    before = world.state
    for event in (asked(), events.Again(SETTINGS), events.Clear(), events.Reframe(True)):
        world.do(event)
        assert "Stop first" in world.state.notice.text
        kept = dataclasses.replace(world.state, notice=before.notice, draft=before.draft)
        assert kept == before, event


def test_a_picture_chosen_while_busy_comes_afterwards():
    world = after(asked(), events.Choose(("dog",)))
    assert world.state.subjects[0].picture.name == "cat"
    world.drain()
    assert world.state.subjects[0].picture.name == "dog"
    assert world.state.history[0].picture == "cat"


def test_a_picture_given_up_does_not_appear_later():
    world = after(events.Choose(("dog",)), events.Stop())
    world.drain()
    assert world.state.subjects[0].picture.name == "cat"


def test_a_picture_that_cannot_be_opened_leaves_the_desk_as_it_was():
    world = after(asked(), "eos", "ended", events.Choose(("dog",)), "failed")
    assert world.state.subjects[0].picture.name == "cat" and len(world.state.talk) == 1
    assert world.state.notice.kind == "error"


def test_what_an_earlier_job_still_reports_is_ignored():
    world = after(asked(), "ended", events.Choose(("dog",)), "eos", asked())
    before = world.state
    for late in (events.Piece(2, "x"), events.Answered(2, answer("x")), events.Failed(2, "x")):
        world.do(late)
    world.do(events.Ended(2))
    world.do(events.Opened(1, (Picture("cat"),)))
    assert world.state == before and before.job > 2


def test_another_picture_begins_another_conversation():
    world = after(asked(), "eos", "ended", events.Choose(("dog",)), "eos")
    assert world.state.talk == () and len(world.state.history) == 1


def test_the_next_picture_is_offered_the_same_first_question():
    world = after(asked("Which breed?"), "eos", "ended", events.Choose(("dog",)), "eos")
    assert world.state.draft == "Which breed?"


def test_a_follow_up_does_not_become_the_first_question():
    world = after(asked("Which breed?"), "eos", "ended", asked("And how old?"), "eos", "ended")
    world.do(events.Clear())
    assert world.state.draft == "Which breed?"


def test_what_is_typed_while_the_answer_comes_stays():
    world = after(asked(), events.Typed("And who?"), "failed", "ended")
    assert world.state.draft == "And who?"


def test_a_failed_question_goes_back_into_the_box():
    world = after(asked(), "piece", "failed", "ended")
    entry = world.state.history[0]
    assert world.state.draft == "What is this?" and world.state.phase == IDLE
    assert (entry.finish, entry.text, entry.error) == ("failed", "piece about cat", "out of order")


def test_stop_ends_the_round_and_names_who_was_not_asked():
    world = World()
    world.do(events.Choose(("cat", "dog")))
    world.drain()
    world.do(asked())
    world.do(events.Stop())
    world.report(0, "stopped")
    world.report(0, "ended")
    assert world.state.phase == IDLE and world.state.notice.text == "Stopped. Not asked: dog."


def test_continue_takes_the_place_of_the_cut_answer():
    world = after(asked(), "limit", "ended", events.More(SETTINGS), "eos", "ended")
    (entry,) = world.state.history
    assert entry.text == "answer 1 about cat + answer 2 about cat" and world.state.talk == (entry,)


def test_the_seconds_of_a_continued_answer_are_those_of_both_parts():
    world = after(asked(), "limit", "ended", events.More(SETTINGS), "eos", "ended")
    assert world.state.history[0].answer.seconds == 2.0


def test_continue_is_offered_for_cut_answers_only():
    assert "more" in after(asked(), "limit", "ended").state.can
    assert "more" in after(asked(), "stopped", "ended").state.can
    assert "more" not in after(asked(), "eos", "ended").state.can


def test_a_failed_continue_keeps_the_answer_and_can_be_tried_again():
    world = after(asked(), "limit", "ended", events.More(SETTINGS), "failed", "ended")
    assert [entry.finish for entry in world.state.history] == ["limit", "failed"]
    world.do(events.Again(SETTINGS))
    assert world.state.todo[0].entry.how == "more"
    world.drain()
    assert [entry.finish for entry in world.state.talk] == ["eos"]


def test_regenerate_replaces_what_is_shown_and_keeps_both_in_the_record():
    world = after(asked(), "eos", "ended", events.Again(SETTINGS), "eos", "ended")
    assert [entry.text for entry in world.state.talk] == ["answer 2 about cat"]
    assert len(world.state.history) == 2


def test_regenerate_after_a_failure_asks_the_failed_question():
    world = after(asked(), "eos", "ended", asked("Who?"), "failed", "ended")
    world.do(events.Again(SETTINGS))
    assert (world.state.todo[0].entry.how, world.state.todo[0].entry.prompt) == ("ask", "Who?")


def test_a_worker_that_vanishes_leaves_a_failed_entry():
    world = after(asked(), "piece", "ended")
    assert world.state.phase == IDLE and world.state.history[0].finish == "failed"


def test_clear_forgets_the_conversation_and_keeps_the_picture_and_the_record():
    world = after(asked(), "eos", "ended")
    key = world.state.subjects[0].key
    world.do(events.Clear())
    assert world.state.talk == () and len(world.state.history) == 1
    assert world.state.subjects[0].picture.name == "cat" and world.state.subjects[0].key != key


def test_another_frame_begins_another_conversation():
    world = after(asked(), "eos", "ended", events.Reframe(True))
    assert world.state.talk == () and world.state.subjects[0].picture.crop


def test_displaying_again_changes_nothing():
    world = after(asked(), "piece")
    before = world.state
    world.do(events.Displayed())
    assert world.state is before
