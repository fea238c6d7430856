"""The tiny CLIP: open_clip's architecture, small enough to ship, pretrained on procedural scenes.

``config.json`` has the architecture and the preprocessing as open_clip writes them, ``vocabulary.json`` the words,
``weights.safetensors`` the weights in float16. ``benchmarks/pretrain_tiny_clip.py`` makes the three.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

_PIECES = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_")  # words, single digits, runs of marks
_BYTES = 256


class Tokenizer:
    """Words and bytes as numbers.

    Numbers 0 to 255 are bytes, 256 to 511 bytes that end a word, then the words of the vocabulary, then start and end
    of text. Text is taken in lower case. A word outside the vocabulary becomes its UTF-8 bytes, so every text has
    numbers and no two texts share them, apart from case and white space.

    Attributes:
        context_length: Numbers a sequence has, start and end of text included.
        sot_token_id: Start of text.
        eot_token_id: End of text; the highest number.
        vocab_size: How many numbers there are.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self._number = {word: 2 * _BYTES + i for i, word in enumerate(words)}
        self._word = {number: word for word, number in self._number.items()}
        self.context_length = context_length
        self.sot_token_id = 2 * _BYTES + len(words)
        self.eot_token_id = self.sot_token_id + 1
        self.vocab_size = self.eot_token_id + 1

    def encode(self, text: str) -> list[int]:
        """Numbers of a text of any length, without start and end."""
        numbers: list[int] = []
        for piece in pieces(text):
            known = self._number.get(piece)
            data = piece.encode()
            numbers += [known] if known is not None else [*data[:-1], _BYTES + data[-1]]
        return numbers

    def decode(self, numbers: Sequence[int]) -> str:
        """The text, its pieces parted by single spaces; start, end and what follows the end are left out."""
        found, word = [], bytearray()
        for number in numbers:
            if number == self.eot_token_id:
                break
            if number in self._word:
                found.append(self._word[number])
            elif number < 2 * _BYTES:
                word.append(number % _BYTES)
                if number >= _BYTES:
                    found.append(word.decode(errors="replace"))
                    word.clear()
        return " ".join(found)


def pieces(text: str) -> list[str]:
    """The words, digits and marks of a text, in lower case."""
    return _PIECES.findall(text.lower())


def parts(folder: Path | None = None) -> tuple[dict[str, Any], Tokenizer, dict[str, torch.Tensor]]:
    """Configuration, tokenizer, and weights as float32 (float16 in the file).

    Args:
        folder: Where the three files are; None: those that ship.
    """
    here = resources.files(__name__) if folder is None else folder
    config = json.loads((here / "config.json").read_text("utf-8"))
    words = json.loads((here / "vocabulary.json").read_text("utf-8"))
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load((here / "weights.safetensors").read_bytes()).items()
    }
    return config, Tokenizer(words, config["model_cfg"]["text_cfg"]["context_length"]), weights
