"""The embedded model: a small real LLaVA, the world it knows, and how it was trained.

`weights/` holds the model itself and its card; `load("tiny")` loads it. Everything
else here made it: `scenes.py` draws, `questions.py` asks, `packing.py` makes batches,
`tower.py` and `language.py` teach, `train.py` runs it all, `evaluate.py` measures. Using the model
needs none of them.
"""
