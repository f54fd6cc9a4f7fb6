"""Draw the bundled pictures again: `python -m llava_nb.pictures`."""

from . import draw_all

draw_all()
