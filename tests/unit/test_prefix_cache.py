"""What is remembered, for whom, and for how long; with tensors of a few numbers."""

import pytest
import torch

from llava_nb import prefix_cache
from llava_nb.preallocated import Room
from llava_nb.prefix_cache import Prefix, PrefixCache, take_layers

CPU = torch.device("cpu")
TOKEN_BYTES = 2 * 2 * 3 * 4  # layers, keys and values, numbers of a token, bytes of a number


def prefix(*ids, picture=b"cat", end=2):
    """Two layers; the numbers of a token say which it is."""
    numbers = torch.tensor(ids, dtype=torch.float32)[None, None, :, None].expand(1, 1, -1, 3)
    layer = (numbers.clone(), -numbers)
    return Prefix(torch.tensor(ids), picture, end, [layer, layer])


@pytest.fixture(autouse=True)
def roomy(monkeypatch):
    monkeypatch.setattr(prefix_cache, "free_and_total", lambda device: (10**9, 10**9))
    monkeypatch.setattr(prefix_cache, "SMALL_BYTES", 0)


def keep(*prefixes, limit=10**6):
    cache = PrefixCache(limit)
    for each in prefixes:
        cache.keep(each, CPU)
    return cache


def start(cache, *ids, picture=b"cat", end=2, whole=True):
    begun, reused = cache.start(torch.tensor(ids), picture, end, Room(9, 9), whole=whole)
    assert begun.get_seq_length() == reused
    return begun, reused


def test_a_conversation_goes_on_where_it_was():
    begun, reused = start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 4, 5)
    assert reused == 4
    assert take_layers(begun, reused)[1][0][0, 0, :, 0].tolist() == [1, 2, 3, 4]


def test_what_differs_is_read_again():
    begun, reused = start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 9, 5)
    assert (reused, take_layers(begun, reused)[0][1].shape[2]) == (3, 3)


def test_a_question_alone_takes_the_picture_and_no_more():
    assert start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 4, 5, whole=False)[1] == 2


def test_one_token_at_least_is_left_to_read():
    assert start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 4)[1] == 3


def test_half_a_picture_is_nothing():
    assert start(keep(prefix(1, 2, 3, end=3)), 1, 2, 9, 4, end=3)[1] == 0


def test_another_picture_with_the_same_tokens_is_another():
    assert start(keep(prefix(1, 2, 3)), 1, 2, 3, 4, picture=b"dog")[1] == 0


def test_of_several_the_longest_is_taken():
    assert start(keep(prefix(1, 2, 7), prefix(1, 2, 3, 4), prefix(1, 2, 8)), 1, 2, 3, 4, 5)[1] == 4


def test_a_longer_one_takes_the_place_of_its_beginning():
    kept = keep(prefix(1, 2), prefix(1, 2, 3))
    assert [len(each.ids) for each in kept] == [3]


def test_conversations_that_part_are_both_kept():
    assert len(keep(prefix(1, 2, 3), prefix(1, 2, 4))) == 2


def test_what_is_kept_does_not_change_when_it_is_gone_on_from():
    kept = keep(prefix(1, 2, 3))
    begun, _ = start(kept, 1, 2, 9)
    more = torch.full((1, 1, 1, 3), 99.0)
    for layer in range(2):
        begun.update(more, more, layer)
    (held,) = kept
    assert held.layers[0][0][0, 0, :, 0].tolist() == [1, 2, 3]


def test_what_is_gone_on_from_as_a_whole_is_not_held_twice():
    kept = keep(prefix(1, 2, 3))
    assert start(kept, 1, 2, 3, 4)[1] == 3 and len(kept) == 0


def test_the_beginning_of_another_is_not_kept_beside_it():
    kept = keep(prefix(1, 2, 3), prefix(1, 2))
    assert [len(each.ids) for each in kept] == [3]


def test_what_is_taken_lets_go_of_the_rest():
    begun, _ = start(keep(prefix(1, 2, 3, 4)), 1, 2, 3, 9)
    layers = take_layers(begun, 2)
    assert [keys.untyped_storage().nbytes() for keys, _ in layers] == [2 * 3 * 4] * 2
    assert begun.layers[0].keys is None


def test_bytes_are_counted():
    assert keep(prefix(1, 2, 3), prefix(1, 2, 4, 5)).nbytes == 7 * TOKEN_BYTES


def test_over_the_limit_the_least_recently_used_goes():
    kept = keep(prefix(1, 2, 3, 7), prefix(1, 2, 4), limit=8 * TOKEN_BYTES)
    start(kept, 1, 2, 3, 9)
    kept.keep(prefix(1, 2, 5), CPU)
    assert [each.ids[-1].item() for each in kept] == [7, 5]


def test_a_limit_of_nothing_keeps_nothing():
    assert len(keep(prefix(1, 2, 3), limit=0)) == 0


def test_no_more_than_a_quarter_of_what_is_free_is_kept(monkeypatch):
    free = 8 * TOKEN_BYTES
    monkeypatch.setattr(prefix_cache, "free_and_total", lambda device: (free, 10**9))
    # 8 tokens' bytes free and 3 kept: a quarter of 11 is less than 3.
    assert len(keep(prefix(1, 2, 3))) == 0
    assert len(keep(prefix(1, 2))) == 1


def test_room_is_made_for_an_answer(monkeypatch):
    kept = keep(prefix(1, 2, 3), prefix(1, 2, 4))
    free = iter([0, prefix_cache.HEADROOM_BYTES + 5 * TOKEN_BYTES])
    monkeypatch.setattr(prefix_cache, "free_and_total", lambda device: (next(free), 10**9))
    kept.make_room(5, CPU)
    assert [each.ids[-1].item() for each in kept] == [4]


def test_a_little_is_kept_and_nobody_asks_what_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(prefix_cache, "SMALL_BYTES", 7 * TOKEN_BYTES)
    monkeypatch.setattr(prefix_cache, "free_and_total", lambda device: asked.append(1) or (0, 1))
    kept = keep(prefix(1, 2, 3), prefix(1, 2, 4, 5))
    kept.make_room(5, CPU)
    assert (len(kept), asked) == (2, [])


def test_the_tokens_of_a_known_picture_are_counted():
    kept = keep(prefix(1, 7, 7, 7, 3))
    assert kept.picture_tokens(b"cat", 7) == 3
    assert kept.picture_tokens(b"dog", 7) is None
