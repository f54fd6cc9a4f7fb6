"""The world that the embedded model knows, and how it was trained and measured.

`scenes.py` draws, `questions.py` asks, `packing.py` makes batches, `tower.py` and `language.py`
teach, `train.py` runs it all, `evaluate.py` measures. The model itself is in `llava_nb/tiny/`;
using it needs none of this.
"""
