"""What is drawn of the model's insides is what the model itself computed.

Each tensor of `look_inside` is compared with what transformers gives for the same input when asked
by its own options; figures are looked at as data: what they say, not how they look.
"""

from dataclasses import replace
from random import Random

import pytest
import torch
from matplotlib import pyplot
from PIL import Image, ImageDraw

from llava_lessons import anatomy
from llava_lessons.anatomy import blank_each_cell, look_inside, main_colours
from llava_lessons.anatomy.looking import attention_map
from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import ModelError, PromptError, load

QUESTION = "Describe this picture."


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def insides(tiny):
    return look_inside(tiny, draw(sample_scene(Random("test scene"), count=2)), QUESTION)


@pytest.fixture
def published(tiny, insides):
    """The same run by transformers' own options."""
    tiny.model.model.language_model.set_attn_implementation("eager")
    given = {"input_ids": insides.ids, "pixel_values": insides.pixels}
    try:
        with torch.no_grad():
            yield tiny.model(**given, output_attentions=True, output_hidden_states=True)
    finally:
        tiny.model.model.language_model.set_attn_implementation("sdpa")


def test_features_are_the_towers_and_the_last_but_one_is_read(tiny, insides):
    with torch.no_grad():
        states = tiny.model.model.vision_tower(insides.pixels, output_hidden_states=True)
        read = tiny.model.model.multi_modal_projector(insides.features[-2])
    theirs = [each[0, 1:] for each in states.hidden_states]
    assert all(torch.equal(*pair) for pair in zip(insides.features, theirs, strict=True))
    assert insides.layer == len(theirs) - 2
    assert torch.allclose(insides.projected, read, atol=1e-4)


def test_attention_and_probabilities_are_the_models_own(insides, published):
    words = len(insides.words)
    theirs = torch.stack(published.attentions)[:, 0, :, -words - 1 : -1].permute(2, 0, 1, 3)
    assert torch.allclose(insides.attention, theirs, atol=1e-5)
    assert torch.allclose(insides.attention.sum(-1), torch.ones(1), atol=1e-5)
    assert torch.allclose(insides.logits, published.logits[0, -words - 1 : -1], atol=1e-3)
    assert insides.logits.argmax(dim=-1).tolist() == list(insides.answer.ids)


def test_the_model_is_left_as_it_was(tiny, picture):
    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in tiny.model.modules()]
        return tiny.model.model.language_model.config._attn_implementation, hooks

    look_inside(tiny, picture, QUESTION)  # transformers hangs up some of its own at first use
    found = state()
    look_inside(tiny, picture, QUESTION)
    assert state() == found and found[0] == "sdpa"


def test_tokens_are_what_the_model_reads(tiny, insides):
    kinds = [token.kind for token in insides.tokens]
    assert kinds.count("picture") == insides.grid**2 == 64
    assert kinds == sorted(kinds, key=("before", "picture", "after", "answer").index)
    text = "".join(token.text for token in insides.tokens if token.kind in ("before", "after"))
    assert text.removeprefix("<s>") == tiny.prompt_text(QUESTION).replace("<image>", "")
    assert "".join(insides.words).strip().removesuffix("</s>") == insides.answer.text


def test_seen_is_the_picture_padded_and_shrunk(tiny, scene):
    wide = draw(replace(scene, things=(), width=1.0, height=0.5, style="plain"), 336)
    seen = look_inside(tiny, wide, QUESTION).seen
    assert seen.size == (112, 112)
    assert seen.getpixel((56, 5)) == (122, 116, 104), "padded with CLIP's mean colour"
    assert seen.getpixel((56, 56)) == wide.getpixel((168, 84))


def test_colours_do_not_depend_on_the_solvers_signs(insides, monkeypatch):
    features, solve = insides.features[2], torch.linalg.svd
    before = main_colours(features)
    signs = torch.ones(64)
    signs[[0, 2]] = -1

    def with_other_signs(*given, **options):
        left, sizes, right = solve(*given, **options)
        return left * signs, sizes, right * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", with_other_signs)
    assert torch.equal(main_colours(features), before)
    assert torch.allclose(main_colours(-features), before, atol=1e-4)
    assert before.shape == (64, 3) and before.min() == 0 and before.max() == 1


def test_a_map_of_attention_is_the_share_on_each_patch(insides):
    mean = insides.on_picture[0].mean(dim=(0, 1))
    assert torch.allclose(attention_map(insides, 0), mean, atol=1e-6) and mean.shape == (8, 8)
    patches = [at for at, token in enumerate(insides.tokens) if token.kind == "picture"]
    one = attention_map(insides, 0, layer=3, head=1)
    assert torch.equal(one.flatten(), insides.attention[0, 3, 1, patches])


def test_hiding_the_thing_hurts_its_name_and_hiding_nothing_does_not(tiny):
    picture = Image.new("RGB", (336, 336), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 150, 150), fill="red")
    insides = look_inside(tiny, picture, "What shape is the red thing?")
    drops = blank_each_cell(tiny, insides, cells=2)
    assert drops.shape == (len(insides.words), 2, 2)
    by_cell = drops.sum(dim=0)
    assert by_cell.argmax() == 0, f"the circle is in the first quarter: {by_cell.tolist()}"
    assert by_cell[1, 1].abs() < 0.1 * by_cell[0, 0], by_cell.tolist()
    axes = anatomy.show_occlusion(insides, drops, 1).axes[0]
    assert torch.equal(torch.tensor(axes.images[-1].get_array().data), drops[1])


def test_what_is_hidden_in_its_own_colour_is_not_hidden(tiny):
    insides = look_inside(tiny, Image.new("RGB", (336, 336), "white"), "What is on the left?")
    own = blank_each_cell(tiny, insides, cells=2, blank=insides.pixels[0, :, 0, 0])
    assert torch.allclose(own, torch.zeros(1), atol=1e-4)
    assert blank_each_cell(tiny, insides, cells=2).abs().max() > 1e-3, "grey is another colour"


def test_a_word_is_found_and_what_cannot_be_looked_at_is_said(tiny, picture, insides, monkeypatch):
    with pytest.raises(PromptError, match="cells is 9; this model has 8 patches along a side"):
        blank_each_cell(tiny, insides, cells=9)
    word = insides.words[2].strip()
    assert insides.place(2) == insides.place(word) == 2
    with pytest.raises(PromptError, match=f'no token "unicorn". It has: .*"{word}"'):
        insides.place("unicorn")
    monkeypatch.setattr(tiny.model.config, "model_type", "llava_next")
    with pytest.raises(ModelError, match='is "llava_next". Take load'):
        look_inside(tiny, picture, QUESTION)


FIGURES = {"show_preparation": (), "show_patches": (), "show_features": (), "show_tokens": ()}
FIGURES |= {"show_growth": (), "show_attention": (1, 4, 2), "show_heads": (1,)}


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_shown_once_and_can_be_drawn(insides, name):
    getattr(anatomy, name)(insides, *FIGURES[name]).canvas.draw()
    assert not pyplot.get_fignums(), "left open, it shows twice"


def test_figures_say_what_is_inside(insides):
    (bars,) = anatomy.show_probabilities(insides, 1, top=5).axes
    shares = insides.logits[1].softmax(-1).topk(5).values
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(shares.tolist())
    assert bars.get_yticklabels()[0].get_text() == insides.words[1].replace(" ", "·")
    (legend,) = anatomy.show_tokens(insides).axes
    texts = [text.get_text() for text in legend.texts]
    assert "picture: 64" in texts and "[ 64 tokens of the picture ]" in texts
    assert sum(int(text.split(": ")[1]) for text in texts[-4:]) == len(insides.tokens)


def test_the_slider_draws_what_is_chosen(insides):
    word, layer, head, shown = anatomy.attention_slider(insides).children
    first = bytes(shown.value)
    word.value, layer.value, head.value = 2, 1, 3
    assert first.startswith(b"\x89PNG") and bytes(shown.value) != first
    assert (layer.max, head.max) == (4, 3)
