"""How a prompt is spelt for a tokenizer in the LLaVA authors' own layout.

The original code cuts a prompt at its pictures and gives each piece to Llama's
tokenizer alone, which sets a blank before every piece. transformers' processor gives
the whole prompt at once, and a tokenizer that is otherwise the same then leaves that
blank out: every prompt of LLaVA-1.5 differs by one token, and nothing says so. Here the
blank is written into the text, so that the processor, which is transformers' own, gives
the original's ids.

Pictures stand at `<unk>` (id 0): the published files have no token for them, and adding one
would add a word that the model could say. Not covered: conversations (`prompts.py`) and
everything that is not text (`original.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .errors import ModelError
from .prompts import DEFAULT_STYLE, IMAGE_TOKEN, chat_template

MARK = "llava_nb_spelling"  # in config.json, when a model of this layout is saved in the other
_BLANKS = (" ", "\u2581")
_LLAMA_TOKENS = ("<s>", "</s>")


@dataclass(frozen=True)
class Spelling:
    """What stands for a picture, for people and for the tokenizer, and the prompt's form.

    `picture` is what a prompt says (some models want marks round it), `token` what the
    tokenizer reads at its place, `legacy` whether the tokenizer itself sets a blank after
    every special token, `special` which these are, `padded` whether pictures are padded to a
    square.
    """

    picture: str = IMAGE_TOKEN
    token: str = "<unk>"
    legacy: bool = False
    special: tuple[str, ...] = _LLAMA_TOKENS
    dummy_prefix: bool = True
    style: str = DEFAULT_STYLE
    padded: bool = True

    def for_tokenizer(self, prompt: str) -> str:
        """Return the prompt as the tokenizer must read it to give the original's ids.

        A `<unk>` that a person wrote is left out: it would be taken for a picture.
        """
        pieces = [piece.replace(self.token, "") for piece in prompt.split(IMAGE_TOKEN)]
        if self.dummy_prefix:
            pieces = [self._with_blank(index, piece) for index, piece in enumerate(pieces)]
        return self.token.join(pieces)

    def _with_blank(self, index: int, piece: str) -> str:
        """Add the blank where the tokenizer would not: it sees only one whole text.

        It sets none where one stands already, nor, if not `legacy`, inside a text. Before a
        `special` token the original has none either.
        """
        inside = (
            index > 0 and piece and not self.legacy and not piece.startswith(tuple(self.special))
        )
        return f" {piece}" if inside or piece.startswith(_BLANKS) else piece

    @property
    def chat_template(self) -> str | None:
        """The style as a chat template that writes what the tokenizer must read."""
        return chat_template(self.style, self.for_tokenizer(f"{self.picture}\n"))

    def mark(self) -> dict[str, Any]:
        """Return what to write into a saved config, for `from_mark`."""
        return asdict(self)

    @classmethod
    def from_mark(cls, config: dict[str, Any]) -> Spelling | None:
        """Return the spelling that a saved config carries, None for other models."""
        if MARK not in config:
            return None
        values = config[MARK]
        return cls(**{**values, "special": tuple(values["special"])})


def read_spelling(folder: Path, raw: dict[str, Any], name: str) -> Spelling:
    """Return the spelling of a checkpoint in the original layout.

    `raw` is its config.json. As in the original, marks go round the picture if
    `mm_use_im_start_end`, and only "pad" as `image_aspect_ratio` pads. `legacy` was the
    rule for tokenizers before that word existed, so it holds where the file is silent.
    """
    marked = raw.get("mm_use_im_start_end")
    sentencepiece = (folder / "tokenizer.model").is_file()
    known_picture = not sentencepiece and IMAGE_TOKEN in _vocabulary(folder)
    return Spelling(
        picture=f"<im_start>{IMAGE_TOKEN}<im_end>" if marked else IMAGE_TOKEN,
        token=IMAGE_TOKEN if known_picture else "<unk>",
        legacy=bool(_json(folder / "tokenizer_config.json").get("legacy", True)),
        special=(*_LLAMA_TOKENS, *_json(folder / "added_tokens.json")),
        dummy_prefix=sentencepiece,
        style=trained_style(name, raw),
        padded=raw.get("image_aspect_ratio") == "pad",
    )


def trained_style(name: str, raw: dict[str, Any]) -> str:
    """Return the conversation that a model was trained with; only its name tells.

    As in the original's `llava/serve/cli.py`, but with "user" for Vicuna, which is what its
    training scripts say (`--version v1`).
    """
    names = f"{name} {raw.get('_name_or_path', '')}".casefold().replace("_", "-")
    return "llava_llama_2" if "llama-2" in names else DEFAULT_STYLE


def build_tokenizer(folder: Path, spelling: Spelling) -> PreTrainedTokenizerBase:
    """Return the tokenizer, built by its class: `AutoTokenizer` gives another one, silently.

    Batches are padded with the end token: LLaVA's own pad token is `<unk>`, the picture's.
    Raises ModelError if its file is missing or damaged.
    """
    try:
        if (folder / "tokenizer.model").is_file():
            tokenizer = LlamaTokenizer.from_pretrained(
                folder, legacy=spelling.legacy, padding_side="left"
            )
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    except Exception as error:
        # sentencepiece and tokenizers raise RuntimeError, TypeError and bare Exception.
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"The tokenizer in {folder} cannot be read ({reason}). tokenizer.model (or "
            "tokenizer.json) is missing or damaged: fetch it again."
        ) from error
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _vocabulary(folder: Path) -> set[str]:
    """Return the special tokens of a tokenizer.json, an empty set without one."""
    return {each["content"] for each in _json(folder / "tokenizer.json").get("added_tokens", ())}
