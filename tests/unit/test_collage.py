"""Pictures side by side."""

from PIL import Image

from llava_nb.collage import HEIGHT, side_by_side

RED, BLUE = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (30, 100), "blue")


def test_they_stand_in_their_order_and_are_of_one_height():
    row = side_by_side([RED, BLUE])
    assert row.size == (200 + 2 + 30, 100)
    assert row.getpixel((100, 50)) == (255, 0, 0) and row.getpixel((220, 50)) == (0, 0, 255)


def test_between_them_is_white():
    assert side_by_side([RED, BLUE]).getpixel((200, 50)) == (255, 255, 255)


def test_high_pictures_are_made_smaller():
    assert side_by_side([Image.new("RGB", (10, 4000)), RED]).height == HEIGHT


def test_a_row_is_never_large_whatever_its_shapes_are():
    row = side_by_side([Image.new("RGB", (30_000, 10)), Image.new("RGB", (10, 30_000))])
    assert row.width * row.height < 12_000_000
