"""What an answer shows."""

from llava_nb import Answer


def answer(**changes):
    figures = {"tokens": 20, "seconds": 4.0, "first_token_seconds": 0.5}
    fields = {"text": "A cat.", "peak_vram_bytes": None, "finish": "eos", **figures, **changes}
    return Answer(**fields)


def test_the_speed_counts_everything():
    assert answer().tokens_per_second == 5.0


def test_no_time_is_no_speed():
    assert answer(seconds=0.0).tokens_per_second == 0.0


def test_printed_it_is_the_text_and_its_figures():
    assert str(answer()) == "A cat.\n(20 tokens in 4.0 s, 5.0 tokens/s, first after 0.5 s)"


def test_peak_is_shown_in_gib():
    assert "peak 2.50 GiB of VRAM" in answer(peak_vram_bytes=5 * 2**29).summary


def test_shown_as_html_the_text_stays_text():
    assert "&lt;img src=x&gt;" in answer(text="<img src=x>")._repr_html_()
