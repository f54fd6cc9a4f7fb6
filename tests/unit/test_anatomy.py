"""What is drawn of the model's insides is what the model itself computed.

Each tensor of `look_inside` is compared with what transformers gives for the same input when asked
by its own options; figures are looked at as data: what they say, not how they look.
"""

import pytest
import torch
from matplotlib.figure import Figure

from llava_lessons import anatomy
from llava_lessons.anatomy import blank_each_cell, look_inside, main_colours
from llava_lessons.anatomy.looking import attention_map
from llava_nb.errors import ModelError, PromptError

QUESTION = "Describe this picture."


@pytest.fixture
def insides(tiny, picture):
    return look_inside(tiny, picture, QUESTION)


@pytest.fixture
def published(tiny, insides):
    """The same run by transformers' own options."""
    tiny.model.model.language_model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield tiny.model(
                input_ids=insides.ids,
                pixel_values=insides.pixels,
                output_attentions=True,
                output_hidden_states=True,
            )
    finally:
        tiny.model.model.language_model.set_attn_implementation("sdpa")


def test_features_are_the_towers_hidden_states(tiny, insides):
    with torch.no_grad():
        output = tiny.model.model.vision_tower(insides.pixels, output_hidden_states=True)
    assert len(insides.features) == len(output.hidden_states)
    for ours, theirs in zip(insides.features, output.hidden_states, strict=True):
        assert torch.equal(ours, theirs[0, 1:])


def test_the_layer_that_is_read_is_the_last_but_one(tiny, insides):
    assert insides.layer == len(insides.features) - 2
    projected = tiny.model.model.multi_modal_projector(insides.features[insides.layer])
    assert torch.allclose(insides.projected, projected, atol=1e-5)


def test_attention_is_the_models_own(insides, published):
    words = len(insides.words)
    theirs = torch.stack(published.attentions)[:, 0, :, -words - 1 : -1]
    assert torch.allclose(insides.attention, theirs.permute(2, 0, 1, 3), atol=1e-6)
    assert torch.allclose(insides.attention.sum(-1), torch.ones(1), atol=1e-5)


def test_probabilities_are_the_models_own(insides, published):
    words = len(insides.words)
    assert torch.allclose(insides.logits, published.logits[0, -words - 1 : -1], atol=1e-4)
    assert insides.logits.argmax(dim=-1).tolist() == list(insides.answer.ids)


def test_the_model_is_left_as_it_was(tiny, picture):
    language = tiny.model.model.language_model

    def state():
        hooks = [len(each._forward_hooks) for each in tiny.model.modules()]
        before = [len(each._forward_pre_hooks) for each in tiny.model.modules()]
        return language.config._attn_implementation, hooks, before

    tiny.ask(picture, QUESTION)  # transformers hangs up some of its own at first use
    look_inside(tiny, picture, QUESTION)
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
    from dataclasses import replace

    from llava_lessons.tiny.scenes import draw

    wide = draw(replace(scene, things=(), width=1.0, height=0.5, style="plain"), 336)
    seen = look_inside(tiny, wide, QUESTION).seen
    assert seen.size == (112, 112)
    assert seen.getpixel((56, 5)) == (122, 116, 104), "padded with CLIP's mean colour"
    assert seen.getpixel((56, 56)) == wide.getpixel((168, 84))


def test_colours_do_not_depend_on_the_solvers_signs(insides, monkeypatch):
    features = insides.features[2]
    before = main_colours(features)
    solve = torch.linalg.svd

    def with_other_signs(*given, **options):
        left, sizes, right = solve(*given, **options)
        signs = torch.ones(left.shape[1])
        signs[[0, 2]] = -1
        return left * signs, sizes, right * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", with_other_signs)
    assert torch.equal(main_colours(features), before)
    assert torch.allclose(main_colours(-features), before, atol=1e-5)
    assert before.shape == (64, 3) and before.min() == 0 and before.max() == 1


def test_a_map_of_attention_is_the_share_on_each_patch(insides):
    whole = attention_map(insides, 0)
    assert whole.shape == (8, 8)
    assert torch.allclose(whole, insides.on_picture[0].mean(dim=(0, 1)), atol=1e-7)
    one = attention_map(insides, 0, layer=3, head=1)
    patches = [at for at, token in enumerate(insides.tokens) if token.kind == "picture"]
    assert torch.equal(one.flatten(), insides.attention[0, 3, 1, patches])


def test_hiding_the_thing_hurts_its_name_and_hiding_nothing_does_not(tiny):
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (336, 336), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 150, 150), fill="red")
    insides = look_inside(tiny, picture, "What shape is the red thing?")
    drops = blank_each_cell(tiny, insides, cells=2)
    assert drops.shape == (len(insides.words), 2, 2)
    by_cell = drops.sum(dim=0)
    assert by_cell.argmax() == 0, f"the circle is in the first quarter: {by_cell.tolist()}"
    assert by_cell[1, 1].abs() < 0.1 * by_cell[0, 0], by_cell.tolist()


def test_cells_smaller_than_a_patch(tiny, insides):
    with pytest.raises(PromptError, match="cells is 9; this model has 8 patches along a side"):
        blank_each_cell(tiny, insides, cells=9)


def test_a_word_is_found_by_its_place_or_its_text(insides):
    word = insides.words[2].strip()
    assert insides.place(2) == insides.place(word) == 2
    assert insides.place(-1) == len(insides.words) - 1
    with pytest.raises(PromptError, match=f'no token "unicorn". It has: .*"{word}"'):
        insides.place("unicorn")


def test_a_model_that_cuts_pictures_into_tiles(tiny, picture, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "model_type", "llava_next")
    with pytest.raises(ModelError, match='is "llava_next". Take load'):
        look_inside(tiny, picture, QUESTION)


FIGURES = {
    "show_preparation": (),
    "show_patches": (),
    "show_features": (),
    "show_tokens": (),
    "show_probabilities": (1,),
    "show_growth": (),
    "show_attention": (1, 4, 2),
    "show_heads": (1,),
}


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_shown_once_and_can_be_drawn(insides, name):
    from matplotlib import pyplot

    figure = getattr(anatomy, name)(insides, *FIGURES[name])
    figure.canvas.draw()
    assert isinstance(figure, Figure) and not pyplot.get_fignums(), "left open, it shows twice"


def test_the_bars_are_the_likeliest_tokens(insides):
    (axes,) = anatomy.show_probabilities(insides, 1, top=5).axes
    shares = insides.logits[1].softmax(-1).topk(5).values
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(shares.tolist())
    assert axes.get_yticklabels()[0].get_text() == insides.words[1].replace(" ", "·")


def test_the_legend_counts_tokens_by_kind(insides):
    (axes,) = anatomy.show_tokens(insides).axes
    texts = [text.get_text() for text in axes.texts]
    assert "picture: 64" in texts and "[ 64 tokens of the picture ]" in texts
    counted = sum(int(text.split(": ")[1]) for text in texts[-4:])
    assert counted == len(insides.tokens), texts[-4:]


def test_the_overlay_of_what_an_answer_depends_on(tiny, insides):
    drops = blank_each_cell(tiny, insides, cells=2)
    axes = anatomy.show_occlusion(insides, drops, 1).axes[0]
    assert torch.equal(torch.tensor(axes.images[-1].get_array().data), drops[1])


def test_the_slider_draws_what_is_chosen(insides):
    box = anatomy.attention_slider(insides)
    word, layer, head, shown = box.children
    first = bytes(shown.value)
    assert first.startswith(b"\x89PNG")
    word.value, layer.value, head.value = 2, 1, 3
    assert bytes(shown.value) != first
    assert (layer.max, head.max) == (4, 3)
