"""Whether two answers are the same, but for words that the model finds equally likely.

Sums are rounded differently on another processor, and in a batch; where two words are all but
equally likely the other one may then be chosen, and all after it differs.
"""

import torch

from llava_nb.processor import encode

CLOSE = 0.01  # of the logits; what rounding changes in float32 is some thousand times less


def same_but_for_ties(llava, picture, text, ids, others):
    """Whether answers to a whole prompt are the same up to a word that might be another."""
    pairs = enumerate(zip(ids, others, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), None)
    if place is None:
        return len(ids) == len(others)
    inputs = encode(llava.processor, [picture], [text], llava.engine.spelling)
    given = torch.cat([inputs["input_ids"], torch.tensor([ids[:place]], dtype=torch.long)], dim=1)
    with torch.no_grad():
        logits = llava.model(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            pixel_values=inputs["pixel_values"].to(llava.model.dtype),
        ).logits[0, -1]
    return abs(logits[ids[place]] - logits[others[place]]).item() < CLOSE
