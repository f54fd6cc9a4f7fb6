"""What only the lessons and the training of the embedded model need.

`anatomy` draws what happens inside LLaVA between a picture and an answer; `tiny` is the world of
drawn shapes, and how the embedded model was trained on it; `pictures` draws the bundled pictures.
It comes in the same wheel as llava_nb and needs matplotlib for its figures.
"""
