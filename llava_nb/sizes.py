"""What a LLaVA takes in memory, in bytes, as it follows from the sizes in its config.

Whoever foretells memory adds up `vram_parts`; there is no second formula.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GIB = 2**30
QUANTIZATIONS = ("4bit", "8bit", None)
IN_WORDS = {"4bit": "in 4 bits", "8bit": "in 8 bits", None: "unquantised"}
HALF, FULL = 2, 4  # bytes of a float16 or bfloat16 number, and of a float32

# bitsandbytes' NF4: a scale for each 64 weights; with double quantisation the scale is one byte,
# and each 256 scales share a float32. Source: `quantize_4bit` in bitsandbytes/functional.py.
NF4_BLOCK, NF4_SCALES_PER_FLOAT = 64, 256

WEIGHTS = ("language model", "embeddings", "head", "vision tower", "projector")
CACHE, ACTIVATIONS, CONTEXT, ROOM = "KV cache", "activations", "CUDA context", "kept free"

# What a model is expected to hold at once beside one picture: a question and a long answer.
PROMPT_TOKENS, ANSWER_TOKENS = 64, 1024

# Allowances; neither has been measured on a T4 yet. The context holds the driver's own memory and
# the compiled kernels. Kept free is a share of what torch allocates: some of it lies unused between
# blocks in use. How much is counted in tests/benchmarks/results/vram_on_paper.md, which cannot know
# of other answers, other pictures and other processes before; this leaves room for those.
CUDA_CONTEXT = 2**29
SHARE_KEPT_FREE = {"4bit": 1 / 10, "8bit": 1 / 10, None: 1 / 20}

WORKING_ROOM = GIB // 2  # RAM for what no shape tells, the libraries' own buffers above all

TILED = ("llava_next", "llava_onevision")  # they cut a picture into tiles beside the whole
TOLERATED = 1.1  # the excess, in each direction, from which LLaVA-OneVision shrinks features
USUAL_CONTEXT = 4096  # tokens: LLaVA-1.5's, for a config that does not say


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA: a language model of Llama's kind, a tower, a two-layer projector.

    The defaults are those of LLaVA-1.5: CLIP ViT-L/14 at 336 pixels, where 24 x 24 patches and one
    class token make 577 positions. Fields have the names of the transformers configs, shortened.
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    tower_hidden: int = 1024
    tower_layers: int = 24
    tower_intermediate: int = 4096
    tower_positions: int = 577
    patch: int = 14
    kv_hidden: int | None = None  # width of all key heads, less than hidden where heads share them
    tied: bool = False  # the head is the embeddings once more and takes nothing
    tiles: int = 1  # into how many pieces a picture is cut at the most, the whole among them
    picture_tokens: int | None = None  # how many tokens that is at the most; None: all patches once
    tower_norms: int = 2  # outside the tower's layers: CLIP before and after, SigLIP after
    tower_head: bool = False  # whether SigLIP has its pooling head, which no LLaVA reads
    features: int = 1  # how many of the tower's layers the projector reads side by side
    projector_norm: bool = False  # whether the projector begins with a norm
    newline: bool = False  # whether there is a vector for the end of each row
    attention_bias: bool = False  # whether queries, keys and values have one (Qwen2)

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the prompt, at the most."""
        patches = self.tower_positions - 1  # without the class token
        return patches if self.picture_tokens is None else self.picture_tokens

    @property
    def kv_width(self) -> int:
        """Numbers in a key, and in a value, of one token in one layer."""
        return self.kv_hidden or self.hidden


def shape_of(config: PretrainedConfig) -> Shape:
    """Return the sizes of a model; a tower of no kind known here counts as LLaVA-1.5's."""
    text = config.text_config
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    try:
        tower = _tower(config)
    except (AttributeError, TypeError):
        tower = {}
    return Shape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_hidden=None if key_heads == heads else key_heads * head_width,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        newline=config.model_type in TILED,
        attention_bias=text.model_type == "qwen2",
        **tower,
    )


def _tower(config: PretrainedConfig) -> dict[str, Any]:
    """The part of a shape that the tower has a say in."""
    vision = config.vision_config
    patches, is_siglip = vision.image_size // vision.patch_size, "siglip" in vision.model_type
    positions = patches**2 + (not is_siglip)  # CLIP's class token
    is_vip = config.model_type == "vipllava"
    layers = getattr(config, "vision_feature_layers" if is_vip else "vision_feature_layer", None)
    # The first position is left out, as CLIP's class token; the original does so in any tower.
    is_whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
    tokens, tiles = positions if is_whole else positions - 1, 1
    if config.model_type in TILED:
        side, grid = vision.image_size, config.image_grid_pinpoints
        limit = re.search(r"\d+", getattr(config, "vision_aspect_ratio", ""))
        tokens += most_tokens(grid, side, patches, int(limit[0]) if limit else None)
        tiles += max((high // side) * (wide // side) for high, wide in grid)
    return {
        "tower_hidden": vision.hidden_size,
        "tower_layers": vision.num_hidden_layers,
        "tower_intermediate": vision.intermediate_size,
        "tower_positions": positions,
        "patch": vision.patch_size,
        "tower_norms": 1 if is_siglip else 2,
        "tower_head": is_siglip and vision.vision_use_head,
        "features": len(layers) if isinstance(layers, (list, tuple)) else 1,
        "projector_norm": is_vip,
        "tiles": tiles,
        "picture_tokens": None if tokens == positions - 1 else tokens,
    }


def most_tokens(grid: Any, side: int, patches: int, limit: int | None) -> int:
    """Return the most tokens that the tiles of one picture become, the whole picture not counted.

    `grid` are the sizes, (height, width) in pixels, to which pictures are scaled; a tile is `side`
    pixels and `patches` patches wide. Source: `pack_image_features` in transformers' llava_next and
    llava_onevision.
    """
    sizes = [(high // side * patches, wide // side * patches) for high, wide in grid]
    most = max(rows * (columns + 1) for rows, columns in sizes)  # each row ends with one token more
    if limit is None:
        return most
    # LLaVA-OneVision shrinks what is more than `limit` tiles ("anyres_max_9").
    return min(most, int(TOLERATED**2 * limit * patches**2) + max(rows for rows, _ in sizes))


def context_of(config: PretrainedConfig) -> int:
    """Return how many tokens the model holds: the longest prompt and answer together."""
    tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
    return tokens if isinstance(tokens, int) and tokens > 0 else USUAL_CONTEXT


@dataclass(frozen=True)
class Work:
    """What is asked at once: pictures, tokens of the question and of the answer, times `batch`."""

    images: int = 1
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = ANSWER_TOKENS
    batch: int = 1

    def prefill_tokens(self, shape: Shape) -> int:
        """Tokens of all prompts with their pictures, which go through the model together."""
        return self.batch * (self.images * shape.image_tokens + self.prompt_tokens)

    def tokens(self, shape: Shape) -> int:
        """Tokens in the KV cache when the answers are complete."""
        return self.prefill_tokens(shape) + self.batch * self.new_tokens


def weights_bytes(shape: Shape, quantization: str | None, number: int = HALF) -> int:
    """Bytes of all weights; by part: `weights_by_part`."""
    return sum(weights_by_part(shape, quantization, number).values())


def parameters(shape: Shape) -> int:
    """All parameters."""
    return weights_bytes(shape, None, 1)


def needed_vram_bytes(shape: Shape, quantization: str | None, context_tokens: int) -> int:
    """Free VRAM needed for one picture, a question and a long answer: all of `vram_parts`."""
    room = max(context_tokens - shape.image_tokens - PROMPT_TOKENS, 1)
    work = Work(new_tokens=min(ANSWER_TOKENS, room))
    return sum(vram_parts(shape, quantization, work).values())


def needed_ram_bytes(shape: Shape, quantization: str | None, *, on_gpu: bool) -> int:
    """Return the free RAM needed to load, from weight files that are mapped into memory.

    On a CPU that is without the KV cache, which grows on top of it with every answer.
    """
    if on_gpu:  # it passes through the RAM tensor by tensor: the largest in half precision, twice
        largest = max(shape.vocabulary, shape.intermediate) * shape.hidden
        return 2 * HALF * largest + WORKING_ROOM
    return weights_bytes(shape, quantization, FULL) + WORKING_ROOM


def vram_parts(
    shape: Shape,
    quantization: str | None,
    work: Work,
    *,
    number: int = HALF,
    context: int = CUDA_CONTEXT,
) -> dict[str, int]:
    """Return the bytes of everything, by part.

    `number` is the bytes of an unquantised number, `context` is 0 for a model on a CPU.
    """
    parts = weights_by_part(shape, quantization, number)
    parts[CACHE] = work.tokens(shape) * kv_bytes_per_token(shape, number)
    parts[ACTIVATIONS] = activation_bytes(shape, quantization, work, number)
    kept_free = int(sum(parts.values()) * SHARE_KEPT_FREE[quantization])
    return parts | {CONTEXT: context, ROOM: kept_free}


def weights_by_part(shape: Shape, quantization: str | None, number: int = HALF) -> dict[str, int]:
    """Return the bytes of the weights, by the names in WEIGHTS.

    Norms and biases are counted with the linear layers, the vector for the end of a row with the
    projector. A code book of 256 float32 numbers for each 4-bit layer is left out: 0.2 MiB in 7B.
    """
    linears = sum(linear_bytes(*each, quantization, number) for each in linear_shapes(shape))
    norms = (2 * shape.layers + 1) * shape.hidden
    if shape.attention_bias:
        norms += shape.layers * (shape.hidden + 2 * shape.kv_width)
    embeddings = shape.vocabulary * shape.hidden
    head = 0 if shape.tied else embeddings
    read = shape.features * shape.tower_hidden
    projector = (read + 1 + shape.hidden + 1) * shape.hidden  # two layers with biases
    projector += 2 * read * shape.projector_norm + shape.hidden * shape.newline
    kept = (embeddings, head, tower_parameters(shape), projector)
    counts = (linears + number * norms, *(number * each for each in kept))
    return dict(zip(WEIGHTS, counts, strict=True))


def linear_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(rows, columns) of every linear layer that is quantised: those of the language model."""
    # Attention has query, key, value and output, square where there are as many key heads as query
    # heads; the feed-forward part has three.
    square, narrow = (shape.hidden, shape.hidden), (shape.kv_width, shape.hidden)
    up, down = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    return shape.layers * [square, narrow, narrow, square, up, up, down]


def linear_bytes(rows: int, columns: int, quantization: str | None, number: int = HALF) -> int:
    """Return the bytes of one quantised layer, its scales included."""
    weights = rows * columns
    if quantization == "4bit":
        scales = -(-weights // NF4_BLOCK)
        return weights // 2 + scales + 4 * -(-scales // NF4_SCALES_PER_FLOAT)
    if quantization == "8bit":
        return weights + 4 * rows  # LLM.int8: one float32 scale for each row
    return number * weights


def tower_parameters(shape: Shape) -> int:
    """Parameters of the tower, with its outer norms. Each norm has weight and bias."""
    width, inner = shape.tower_hidden, shape.tower_intermediate
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    layer = attention + feed_forward + 2 * 2 * width
    # CLIP has a class token; SigLIP has none, and a bias of the same size for its patches.
    embeddings = (3 * shape.patch**2 + shape.tower_positions + 1) * width  # patches, places, one
    # SigLIP's pooling head: a layer with one norm, not two, and a question as wide as the tower.
    head = shape.tower_head * (layer - width)
    return embeddings + shape.tower_layers * layer + 2 * shape.tower_norms * width + head


def kv_bytes_per_token(shape: Shape, number: int = HALF) -> int:
    """Bytes that one token takes in the KV cache: a key and a value in every layer."""
    return 2 * shape.layers * shape.kv_width * number


def activation_bytes(shape: Shape, quantization: str | None, work: Work, number: int = HALF) -> int:
    """Return the most that an answer needs beside weights and cache, at its first token.

    That is the language model's prefill, or the tower's turn where that takes more than prefill and
    cache together, as it may with many tiles: the tower is done before there is a cache.
    """
    # For each token, four tensors as wide as the model (input, residual, norm, output) and three
    # as wide as the feed-forward part (gate, up, their product) or the six of attention; in 4 bits
    # the largest matrix, unpacked, and in 8 bits the product in int32. Sources: `LlamaMLP` in
    # transformers, `_dequant_linear_fallback` and `int8_scaled_mm` in bitsandbytes.
    tokens = work.prefill_tokens(shape)
    widest = max(3 * shape.intermediate, 6 * shape.hidden)
    prefill = number * tokens * (4 * shape.hidden + widest)
    if quantization == "4bit":
        prefill += number * max(rows * columns for rows, columns in linear_shapes(shape))
    if quantization == "8bit":
        prefill += 4 * tokens * shape.intermediate
    cache = work.tokens(shape) * kv_bytes_per_token(shape, number)
    logits = FULL * work.batch * shape.vocabulary  # of the last position
    return max(prefill, tower_bytes(shape, work, number) - cache) + logits


def tower_bytes(shape: Shape, work: Work, number: int = HALF) -> int:
    """What the tower's turn takes: the states of all layers, one layer's feed-forward part."""
    # transformers before 5.23 keeps all those states until it has chosen among them, later ones the
    # chosen alone. Sources: `CLIPMLP`, `get_image_features`.
    positions = work.batch * work.images * shape.tiles * shape.tower_positions
    states = (shape.tower_layers + 1) * shape.tower_hidden
    return number * positions * (states + 3 * shape.tower_intermediate + 2 * shape.tower_hidden)
