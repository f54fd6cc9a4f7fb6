"""Keys and values: the numbers of transformers, in fewer blocks, and what is remembered of them."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llava_nb import load
from llava_nb.images import example_picture
from llava_nb.inference import kv_cache
from llava_nb.inference.kv_cache import (
    PreallocatedLayer,
    Prefix,
    PrefixCache,
    Room,
    cache_for_batch,
    take_layers,
)

HEADS, WIDTH = 2, 4


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


def test_a_token_is_written_where_there_is_room_and_the_first_have_none_behind_them():
    layer = PreallocatedLayer(Room(10, 10))
    held = [tensor.untyped_storage().nbytes() for tensor in layer.update(*states(5))]
    assert held == [5 * HEADS * WIDTH * 4] * 2
    places = {layer.update(*states(1))[0].data_ptr() for _ in range(5)}
    assert len(places) == 1
    held = states(4)
    before = [tensor.clone() for tensor in held]
    keys, _ = PreallocatedLayer(Room(6, 6), held).update(*states(1))
    assert torch.equal(keys[:, :, :4], held[0]) and keys.data_ptr() != held[0].data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True)), "it was written to"


def test_a_batch_has_all_its_blocks_before_the_model_begins(tiny):
    text = tiny.model.config.text_config
    cache = cache_for_batch(tiny.model, 3, Room(20, 40))
    assert len(cache.layers) == text.num_hidden_layers and cache.get_seq_length() == 0
    heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    places = set()
    for tokens in (12, 1, 7):
        pair = torch.randn(2, 3, heads, tokens, width)
        held = cache.update(*pair, 0)
        places.add((held[0].data_ptr(), held[1].data_ptr()))
    assert len(places) == 1 and torch.equal(held[1][:, :, -7:], pair[1])


CHANGES = {
    "crop": lambda layer: layer.crop(-2),
    "reorder": lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
    "repeat": lambda layer: layer.batch_repeat_interleave(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_transformers_does_to_a_layer_is_done(change):
    layer, other, _, _ = both(Room(9, 9), 4, 1, batch=2)
    for each in (layer, other.layers[0]):
        CHANGES[change](each)
    more = states(1, batch=4 if change == "repeat" else 2)
    found, expected = layer.update(*more), other.update(*more, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class AnewEachTime(DynamicLayer):
    """transformers' own layer, in the place of `PreallocatedLayer`."""

    def __init__(self, room, held=None, blocks=()):
        super().__init__()
        if held is not None:
            self.lazy_initialization(*held)
            self.keys, self.values = held

    def hand_over(self):
        pair, self.keys, self.values = (self.keys, self.values), None, None
        return pair


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
    picture, text = example_picture(), "Describe this picture."
    conversation = llava.chat(picture)
    asked = [llava.ask(picture, text, max_new_tokens=count) for count in (9, 3)]
    return [*asked, conversation.ask("What is in it?"), conversation.ask("What else?")]


def at_once(llava):
    questions = ["What is in it?", "Count.", "Describe it all."]
    return llava.ask_batch([example_picture()] * 3, questions)


@pytest.mark.parametrize("ask", [one_by_one, at_once])
@pytest.mark.parametrize("quantization", ["4bit", None])
def test_every_logit_is_that_of_transformers_own_layers(quantization, ask, monkeypatch):
    llava = load("tiny", quantization=quantization)
    ids, found = scores_of(llava, monkeypatch, ask)
    monkeypatch.setattr(kv_cache, "PreallocatedLayer", AnewEachTime)
    expected_ids, expected = scores_of(llava, monkeypatch, ask)
    assert ids == expected_ids and len(found) == len(expected) > 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


CPU = torch.device("cpu")
TOKEN_BYTES = 2 * 2 * 3 * 4  # layers, keys and values, numbers of a token, bytes of a number


def prefix(*ids, picture=b"cat", end=2):
    """Two layers; the numbers of a token say which it is."""
    numbers = torch.tensor(ids, dtype=torch.float32)[None, None, :, None].expand(1, 1, -1, 3)
    layer = (numbers.clone(), -numbers)
    return Prefix(torch.tensor(ids), picture, end, [layer, layer])


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    monkeypatch.setattr(kv_cache, "SMALL_BYTES", 0)


def keep(*prefixes, limit=10**6):
    cache = PrefixCache(limit)
    for each in prefixes:
        cache.keep(each)
    return cache


def start(cache, *ids, picture=b"cat", end=2, whole=True):
    begun, reused = cache.start(torch.tensor(ids), picture, end, Room(9, 9), whole=whole)
    assert begun.get_seq_length() == reused
    return begun, reused


def last_ids(kept):
    return [each.ids[-1].item() for each in kept]


FOUR = [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("kept", "ids", "options", "reused"),
    [
        (FOUR, (1, 2, 3, 4, 5), {}, 4),  # a conversation goes on where it was
        (FOUR, (1, 2, 3, 9, 5), {}, 3),  # what differs is read again
        (FOUR, (1, 2, 3, 4, 5), {"whole": False}, 2),  # a question takes the picture and no more
        (FOUR, (1, 2, 3, 4), {}, 3),  # one token at least is left to read
        ([(1, 2, 3)], (1, 2, 9, 4), {"end": 3}, 0),  # half a picture is nothing
        ([(1, 2, 3)], (1, 2, 3, 4), {"picture": b"dog"}, 0),  # another picture, the same tokens
        ([(1, 2, 7), *FOUR, (1, 2, 8)], (1, 2, 3, 4, 5), {}, 4),  # the longest of several
    ],
)
def test_what_need_not_be_read_again(kept, ids, options, reused):
    begun, found = start(keep(*(prefix(*each) for each in kept)), *ids, **options)
    assert found == reused
    for keys, values in take_layers(begun, reused):
        assert keys[0, 0, :, 0].tolist() == list(ids[:reused]) and torch.equal(values, -keys)


@pytest.mark.parametrize(
    ("prefixes", "lengths"),
    [
        ([(1, 2), (1, 2, 3)], [3]),  # a longer one in place of its beginning
        ([(1, 2, 3), (1, 2)], [3]),  # no beginning of another
        ([(1, 2, 3), (1, 2, 4)], [3, 3]),  # both that part
    ],
)
def test_what_is_kept_beside_what(prefixes, lengths):
    kept = keep(*(prefix(*each) for each in prefixes))
    assert [len(each.ids) for each in kept] == lengths
    assert kept.nbytes == sum(lengths) * TOKEN_BYTES


def test_what_is_gone_on_from_is_not_held_twice_nor_what_is_left_of_it():
    kept = keep(prefix(1, 2, 3))
    assert start(kept, 1, 2, 3, 4)[1] == 3 and len(kept) == 0
    begun, _ = start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 9)
    layers = take_layers(begun, 2)
    assert [keys.untyped_storage().nbytes() for keys, _ in layers] == [2 * 3 * 4] * 2
    assert begun.layers[0].keys is None


def test_over_the_limit_the_least_recently_used_goes():
    kept = keep(prefix(1, 2, 3, 7), prefix(1, 2, 4), limit=8 * TOKEN_BYTES)
    start(kept, 1, 2, 3, 9)
    kept.keep(prefix(1, 2, 5))
    assert last_ids(kept) == [7, 5] and len(keep(prefix(1, 2, 3), limit=0)) == 0


@pytest.mark.parametrize(("small", "left"), [(0, [4]), (6, [3, 4])])
def test_room_is_made_for_an_answer_unless_little_is_kept(monkeypatch, small, left):
    kept = keep(prefix(1, 2, 3), prefix(1, 2, 4))
    free = iter([0, kv_cache.HEADROOM_BYTES + 5 * TOKEN_BYTES])
    monkeypatch.setattr(kv_cache, "SMALL_BYTES", small * TOKEN_BYTES)
    kept.make_room(5, lambda: next(free))
    assert last_ids(kept) == left
