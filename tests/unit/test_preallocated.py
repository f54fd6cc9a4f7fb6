"""Keys and values in place: the same numbers as transformers' own, in fewer blocks."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llava_nb import load, preallocated
from llava_nb.loading import release
from llava_nb.pictures import example_picture
from llava_nb.preallocated import PreallocatedLayer, Room, cache_for_batch, cache_with_room

HEADS, WIDTH = 2, 4


class AnewEachTime(DynamicLayer):
    """transformers' own layer, in the place of `PreallocatedLayer`."""

    def __init__(self, room, held=None):
        super().__init__()
        if held is not None:
            self.lazy_initialization(*held)
            self.keys, self.values = held

    def take(self, blocks):
        pass

    def hand_over(self):
        pair, self.keys, self.values = (self.keys, self.values), None, None
        return pair


def states(tokens, batch=1):
    """Keys and values as attention makes them: transposed views."""
    return tuple(torch.randn(batch, tokens, HEADS, WIDTH).transpose(1, 2) for _ in range(2))


def both(room, *lengths, batch=1):
    """A layer and a cache of transformers' own, given the same."""
    layer, other = PreallocatedLayer(room), DynamicCache()
    for length in lengths:
        pair = states(length, batch)
        found, expected = layer.update(*pair), other.update(*pair, 0)
    return layer, other, found, expected


@pytest.mark.parametrize("room", [Room(1, 1), Room(9, 9), Room(20, 40), Room(8, 11)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_keys_and_values_are_those_of_transformers(room, batch):
    layer, _, found, expected = both(room, 5, 3, 1, 1, 1, batch=batch)
    assert layer.get_seq_length() == 11
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_token_is_written_where_there_is_room():
    layer = PreallocatedLayer(Room(10, 10))
    layer.update(*states(5))
    moved = layer.update(*states(1))[0].data_ptr()
    stays = [layer.update(*states(1))[0].data_ptr() for _ in range(4)]
    assert set(stays) == {moved}


def test_the_first_tokens_have_no_room_behind_them():
    layer = PreallocatedLayer(Room(10, 10))
    keys, values = layer.update(*states(5))
    held = [tensor.untyped_storage().nbytes() for tensor in (keys, values)]
    assert held == [5 * HEADS * WIDTH * 4] * 2


def test_a_batch_has_all_its_blocks_before_the_model_begins():
    release()
    network = load("tiny", quantization=None).model
    text = network.config.text_config
    cache = cache_for_batch(network, 3, Room(20, 40))
    assert len(cache.layers) == text.num_hidden_layers and cache.get_seq_length() == 0
    heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    for number, layer in enumerate(cache.layers):
        before = [block.data_ptr() for block in layer._blocks]
        for tokens in (12, 1, 7):
            states = torch.randn(2, 3, heads, tokens, width)
            held = cache.update(*states, number)
        assert [each.data_ptr() for each in held] == before, number
        assert torch.equal(held[1][:, :, -7:], states[1])


def test_blocks_of_another_shape_are_not_used():
    layer = PreallocatedLayer(Room(9, 9))
    layer.take([torch.empty(2, HEADS, 9, WIDTH) for _ in range(2)])
    pair = states(4, batch=3)
    assert all(torch.equal(a, b) for a, b in zip(layer.update(*pair), pair, strict=True))


def length_of(layer):
    return layer.keys.untyped_storage().nbytes() // (HEADS * WIDTH * 4)


def test_when_it_is_full_there_is_a_quarter_more_up_to_the_most():
    layer, lengths = PreallocatedLayer(Room(8, 13)), []
    layer.update(*states(5))
    for _ in range(9):
        layer.update(*states(1))
        lengths.append(length_of(layer))
    assert lengths == [8, 8, 8, 11, 11, 11, 13, 13, 14]


def test_what_it_begins_with_is_not_written_to():
    held = states(4)
    layer = PreallocatedLayer(Room(6, 6), held)
    before = [tensor.clone() for tensor in held]
    keys, _ = layer.update(*states(1))
    assert torch.equal(keys[:, :, :4], held[0]) and keys.data_ptr() != held[0].data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))


@pytest.mark.parametrize("change", ["crop", "reorder", "repeat"])
def test_what_transformers_does_to_a_layer_is_done(change):
    layer, other, _, _ = both(Room(9, 9), 4, 1, batch=2)
    for each in (layer, other.layers[0]):
        if change == "crop":
            each.crop(-2)
        elif change == "reorder":
            each.reorder_cache(torch.tensor([1, 0]))
        else:
            each.batch_repeat_interleave(2)
    more = states(1, batch=4 if change == "repeat" else 2)
    found, expected = layer.update(*more), other.update(*more, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_handed_over_is_gone_here():
    layer, _, found, _ = both(Room(9, 9), 4, 1)
    pair = layer.hand_over()
    assert pair[0] is found[0] and layer.get_seq_length() == 0 and not layer._blocks
    assert torch.equal(layer.update(*states(2))[0], layer.keys) and layer.get_seq_length() == 2


def test_a_cache_makes_its_layers_as_they_are_needed():
    cache = cache_with_room(Room(9, 9))
    for layer in range(3):
        cache.update(*states(2), layer)
    assert [type(layer) for layer in cache.layers] == [PreallocatedLayer] * 3
    assert cache.get_seq_length() == 2


def scores_of(llava, monkeypatch, ask):
    """The ids of the answers, and all logits that they were chosen by."""
    said, real = [], llava.model.generate

    def keep(**arguments):
        said.extend(real(**arguments, return_dict_in_generate=True, output_scores=True).scores)

    llava.prefixes.clear()
    with monkeypatch.context() as patch:
        patch.setattr(llava.model, "generate", keep)
        return [answer.ids for answer in ask(llava)], said


def one_by_one(llava):
    conversation = llava.chat(example_picture())
    asked = [
        llava.ask(example_picture(), "Describe this picture.", max_new_tokens=n) for n in (9, 3)
    ]
    return [*asked, conversation.ask("What is in it?"), conversation.ask("What else?")]


def at_once(llava):
    return llava.ask_batch(
        [example_picture()] * 3, ["What is in it?", "Count.", "Describe it all."]
    )


@pytest.mark.parametrize("ask", [one_by_one, at_once])
@pytest.mark.parametrize("quantization", ["4bit", None])
def test_every_logit_is_that_of_transformers_own_layers(quantization, ask, monkeypatch):
    release()
    llava = load("tiny", quantization=quantization)
    ids, found = scores_of(llava, monkeypatch, ask)
    monkeypatch.setattr(preallocated, "PreallocatedLayer", AnewEachTime)
    expected_ids, expected = scores_of(llava, monkeypatch, ask)
    assert ids == expected_ids and len(found) == len(expected) > 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
