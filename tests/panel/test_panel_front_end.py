"""The panel in a kernel, as a page sees it: through messages alone, and with nothing printed."""

import io

import pytest
from front_end import FAKES, FrontEnd
from PIL import Image

FAKE = f"""
import sys
sys.path.insert(0, {str(FAKES)!r})
from panel_fakes import FakeLlava, no_report
from llava_nb import caption_panel
from llava_nb.panel import panel as module
module.vram_report = no_report
"""
NEW = "llava = FakeLlava(); panel = caption_panel(llava); panel"


def png(side=20, colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (2 * side, side), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def kernel():
    with FrontEnd() as front_end:
        front_end.run(FAKE)
        yield front_end


@pytest.fixture
def page(kernel):
    """A new panel; afterwards no error was lost and nothing was printed."""
    kernel.settle(0.1)
    kernel.widgets.clear()
    kernel.streams = ""
    shown = kernel.run(NEW)
    assert "application/vnd.jupyter.widget-view+json" in shown
    yield kernel
    kernel.run("llava.gate.set(); panel.wait(20)")
    assert not kernel.errors and not kernel.streams.strip(), (kernel.errors, kernel.streams)


def with_picture(page):
    page.upload(("cat.png", png()))
    page.wait_for(lambda: "cat.png" in page.value("pictures") and page.enabled("ask"))


def stops(page):
    """Whether the one button ends the answer under way."""
    return page.widgets[page.find("ask")]["description"] == "Stop" and page.enabled("ask")


def ask(page, question="Why?"):
    page.enter("question", question)
    page.click("ask")


def test_upload_ask_follow_up(page):
    with_picture(page)
    ask(page)
    page.wait_for(lambda: "(40, 20) Why? no 0" in page.text("answers") and page.enabled("ask"))
    page.enter("question", "Who?\n")
    page.wait_for(lambda: "(40, 20) Who? no 1" in page.text("answers"))
    assert page.value("question") == ""


def test_uploaded_bytes_do_not_stay_in_the_page(page):
    with_picture(page)
    page.settle(0.3)
    state = page.widgets[page.find("upload")]
    assert not any(state.get(name) for name in ("value", "data", "metadata", "_counter")), state


def test_a_picture_from_the_script_arrives_and_stays_nowhere(page):
    page.put("owl.png", png())
    page.wait_for(lambda: "owl.png" in page.value("pictures") and page.enabled("ask"))
    assert r"\x89PNG" not in str(page.widgets)


def test_the_same_file_twice(page):
    with_picture(page)
    page.upload(("dog.png", png()), ("emu.png", png(30)))
    page.wait_for(lambda: "emu.png" in page.value("pictures"))
    page.upload(("dog.png", png()), ("emu.png", png(30)))
    page.wait_for(lambda: page.run("panel.state.next_key")["text/plain"] == "6")


def test_a_lost_upload_is_told_and_the_next_one_arrives(page):
    page.upload(("big.png", png()), lost=True)
    page.wait_for(lambda: "nothing arrived" in page.text("notice"))
    with_picture(page)


def test_stop_ends_the_answer_while_the_kernel_is_free(page):
    with_picture(page)
    page.run("llava.gate.clear()")
    ask(page)
    page.wait_for(lambda: stops(page))
    page.click("ask")
    page.run("llava.gate.set()")
    page.wait_for(lambda: "Stopped." in page.text("notice"))
    assert page.run("panel.history[0].finish")["text/plain"] == "'stopped'"


def test_a_question_while_busy_is_answered_with_a_notice_and_kept(page):
    with_picture(page)
    page.run("llava.gate.clear()")
    ask(page)
    page.wait_for(lambda: stops(page) and page.value("question") == "")
    page.enter("question", "And what?\n")
    page.wait_for(lambda: "Stop first" in page.text("notice"))
    page.wait_for(lambda: page.value("question") == "And what?")


def test_a_double_click_on_ask_is_one_question(page):
    with_picture(page)
    page.run("llava.gate.clear()")
    ask(page)
    page.click("ask")
    page.run("llava.gate.set()")
    page.wait_for(lambda: "(40, 20) Why? no 0" in page.text("answers"))
    assert page.run("[entry.finish for entry in panel.history]")["text/plain"] == "['eos']"


def test_only_the_question_under_way_is_sent(page):
    with_picture(page)
    for question in ("Why?", "Who?"):
        ask(page, question)
        page.wait_for(lambda q=question: f"{q} no" in page.text("answers") and page.enabled("ask"))
    first, second = (
        each for each in page.widgets.values() if "llava-answers" in each.get("_dom_classes", ())
    )
    assert "Why?" in first["value"] and "Who?" in second["value"]
    assert "Why?" not in second["value"]


def test_paths_open_with_enter(page, tmp_path):
    (tmp_path / "fox.png").write_bytes(png())
    page.enter("path", f"{tmp_path / 'fox.png'}\n")
    page.wait_for(lambda: "fox.png" in page.value("pictures"))


def test_a_kernel_interrupt_leaves_the_panel_working(page):
    with_picture(page)
    page.run("llava.gate.clear()")
    ask(page)
    page.wait_for(lambda: stops(page))
    page.manager.interrupt_kernel()
    page.run("llava.gate.set()")
    page.wait_for(lambda: "(40, 20) Why? no 0" in page.text("answers"))
    page.settle(0.3)
    page.errors.clear()  # the kernel's own report of the interrupt, if it was at work


def test_displayed_twice_is_one_panel(page):
    for _ in range(2):
        assert page.run("panel")["text/plain"] == "<CaptionPanel of fake, 0 answer(s)>"
    with_picture(page)


def test_the_last_words_arrive_after_a_flood(page):
    with_picture(page)
    page.run("panel.ask(' '.join(f'w{at}' for at in range(3000)), max_new_tokens=9999); None")
    page.wait_for(lambda: "w2999 no 0" in page.text("answers") and page.enabled("ask"))
