"""A model of a few lines, and folders of small pictures, for the tests of caption_folder()."""

from __future__ import annotations

from PIL import Image

from llava_nb.inference.answer import Answer


class FakeLlava:
    """Says which colour a picture has; `asked` are the sizes of its batches."""

    def __init__(self, name="fake", before=lambda: None):
        self.name, self.asked, self._before = name, [], before

    def ask_batch(self, images, prompts, *, batch_size, max_new_tokens=256, **settings):
        self.asked.append(len(images))
        self._before()
        return [caption(image, max_new_tokens) for image in images]


def caption(image, limit):
    words = f"a picture, {image.getpixel((0, 0))}".split()
    text = " ".join(words[:limit])
    return Answer(text, len(words[:limit]), 0.5, 0.1, None, "eos" if limit > 3 else "limit")


def paint(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def album(folder, number=10):
    """That many pictures, each with a colour of its own."""
    for place in range(number):
        paint(folder / f"{place:03}.png", (place, 0, 255 - place))
    return folder


def names(rows):
    return [row.file for row in rows]
