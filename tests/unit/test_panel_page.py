"""The link between page and panel: what a page sends is taken, whatever it is."""

import base64
import builtins
import html
import json
import re
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_nb import ImageError
from llava_nb.panel import page
from llava_nb.panel.page import TEXTS, PageLink
from llava_nb.panel.sources import Source

ABOUT = {
    "kind": "picture",
    "choice": "1",
    "at": 0,
    "sent": 1,
    "all": 1,
    "name": "cat.png",
    "size": 3,
    "shrunk_from": None,
    "limit": None,
}


class Link(PageLink):
    """A link that keeps what it was told."""

    def __init__(self):
        self.pictures, self.asked = [], []
        super().__init__(on_pictures=self.pictures.append, on_ask=self.asked.append)


def receive(link, content, *buffers):
    """What a page sends to the script's widget."""
    data = {"method": "custom", "content": content}
    link._model._handle_msg({"content": {"data": data}, "buffers": list(buffers)})


@pytest.fixture
def link():
    made = Link()
    yield made
    made.close()


def drawn(link):
    """What stands in the value of the HTML widget: attributes by their names."""
    value = link.widget.children[0].value
    return {name: html.unescape(text) for name, text in re.findall(r'data-(\w+)="([^"]*)"', value)}


def test_a_picture_arrives_with_what_the_page_did(link):
    receive(link, ABOUT | {"shrunk_from": [4000, 3000]}, memoryview(b"abc"))
    assert link.pictures == [(Source(b"abc", "cat.png", 3, (4000, 3000)),)]
    assert type(link.pictures[0][0].given) is bytes


def test_what_was_chosen_at_once_arrives_at_once(link):
    for at in (1, 0, 2):
        assert not link.pictures
        receive(link, ABOUT | {"at": at, "sent": 3, "all": 3, "name": f"{at}.png"}, b"abc")
    assert [each.name for each in link.pictures[0]] == ["0.png", "1.png", "2.png"]


def test_pictures_left_in_the_page_are_counted(link):
    receive(link, ABOUT | {"all": 200}, b"abc")
    assert len(link.pictures[0]) == 200


def test_choices_that_never_end_are_given_up(link):
    for choice in range(100):
        receive(link, ABOUT | {"choice": str(choice), "sent": 2, "all": 2}, b"abc")
    assert len(link._started) <= page.STARTED and not link.pictures


def test_a_picture_that_was_too_large_to_send_says_what_to_do(link):
    receive(link, ABOUT | {"name": "IMG.heic", "size": 12_000_000, "limit": 9_500_000})
    with pytest.raises(ImageError, match=r"IMG.heic.*12,000,000 bytes.*9,500,000.*Save it as JPEG"):
        link.pictures[0][0].open()


def test_enter_in_the_page_asks(link):
    receive(link, {"kind": "ask", "text": "One\ntwo"})
    assert link.asked == ["One\ntwo"]


def test_keys_are_seen_once_a_page_has_answered(link):
    assert link.keys_seen is False
    receive(link, {"kind": "here"})
    assert link.keys_seen is True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KINDS = st.sampled_from(["picture", "ask", "here"])


@settings(deadline=None)
@given(JSON | st.dictionaries(st.sampled_from([*ABOUT, "text"]), JSON | KINDS), st.binary())
def test_whatever_a_page_sends_raises_nothing(content, data):
    link = Link()
    link._from_model(None, content, [data])
    link._from_model(None, content, [])
    link._from_colab(content, data)
    link._from_colab(content, content)
    assert all(isinstance(each, tuple) for each in link.pictures)
    assert all(isinstance(each, str) for each in link.asked)
    link.close()


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ABOUT, JSON)))
def test_a_picture_with_wrong_facts_is_a_source_or_nothing(facts):
    link = Link()
    link._from_model(None, ABOUT | facts, [b"abc"])
    for source in (each for pictures in link.pictures for each in pictures):
        assert isinstance(source.name, str) and source.name and len(source.name) <= 255
        assert source.size is None or source.size >= 0
    link.close()


def test_nothing_of_a_picture_is_in_the_state_of_a_widget(link):
    receive(link, ABOUT | {"sent": 2, "all": 2}, b"abcdefgh" * 1000)
    receive(link, ABOUT | {"at": 1, "sent": 2, "all": 2}, b"abcdefgh" * 1000)
    for widget in (link._model, link.widget, *link.widget.children):
        assert "abcdefgh" not in str(widget.get_state())


def test_the_page_is_told_whether_pictures_can_come(link):
    assert drawn(link)["enabled"] == "true" and not link.upload.disabled
    link.set_enabled(False)
    assert drawn(link)["enabled"] == "false" and link.upload.disabled


def test_the_page_is_told_the_texts(link):
    link.set_texts({"choose": 'Wähle "ein" <b>Bild</b>', "upload": "Hochladen"})
    texts = json.loads(drawn(link)["texts"])
    assert texts == TEXTS | {"choose": 'Wähle "ein" <b>Bild</b>', "upload": "Hochladen"}
    assert "<b>" not in link.widget.children[0].value
    assert link.upload.description == "Hochladen"


def test_without_anywidget_the_plain_button_is_there(monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "anywidget":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    link = Link()
    assert link.upload in link.widget.children and link.keys_seen is False
    link.close()


@pytest.fixture
def colab(monkeypatch):
    """The callbacks that were registered with a stand-in for `google.colab`."""
    callbacks = {}
    module = types.ModuleType("google.colab")
    module.output = types.SimpleNamespace(register_callback=callbacks.__setitem__)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "stand-in")
    return callbacks


def test_in_colab_pictures_come_by_a_callback_of_its_own(colab):
    links = Link(), Link()
    first, second = colab
    assert first != second and all(name.startswith("llava_nb.picture.") for name in colab)
    colab[first](ABOUT, base64.b64encode(b"abc").decode())
    assert links[0].pictures == [(Source(b"abc", "cat.png", 3),)] and not links[1].pictures


def test_in_colab_the_script_is_displayed_with_the_panel(colab, monkeypatch):
    shown = []
    monkeypatch.setattr(page, "display", shown.append)
    link = Link()
    link.display_script()
    (name,) = colab
    assert name.rsplit(".", 1)[1] in shown[0].data and "<script>" in shown[0].data
    assert link._model is None  # its widget manager would have to be changed for one


def test_elsewhere_no_script_is_displayed(link, monkeypatch):
    shown = []
    monkeypatch.setattr(page, "display", shown.append)
    link.display_script()
    assert not shown
