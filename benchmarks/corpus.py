"""A made-up corpus of any size: words as natural texts have them, vectors that cluster as texts do.

Words follow Zipf's law (as Mandelbrot wrote it: f ∝ 1 / (rank + 10)) over 30,000 pronounceable ones, so that some
stand in a third of the texts and most in a handful. A question is about one text: six of its words, and a vector near
its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
_WORDS: Final = 30_000
_WORDS_A_TEXT: Final = 40
_WORDS_A_QUESTION: Final = 6
_CENTRES: Final = 200


class Corpus:
    """Texts with their vectors, the same for the same seed.

    Args:
        items: number of texts.
        seed: of the random numbers.

    Attributes:
        vectors: unit vectors of the texts, float32 of shape (items, 384).
    """

    def __init__(self, items: int, *, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._words = _pronounceable(_WORDS)
        share = 1 / (np.arange(_WORDS) + 10)
        ranks = self._generator.choice(_WORDS, (items, _WORDS_A_TEXT), p=share / share.sum())
        self._ranks: NDArray[np.int32] = ranks.astype(np.int32)
        centres = self._generator.normal(size=(_CENTRES, DIMENSIONS)).astype(np.float32)
        chosen = centres[self._generator.integers(0, _CENTRES, items)]
        self.vectors: NDArray[np.float32] = _unit(chosen + self._noise(items))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._ranks)

    def title(self, number: int) -> str:
        """Return the title of a text: its first five words."""
        return self._spoken(self._ranks[number, :5])

    def text(self, number: int) -> str:
        """Return a text without its title, 35 words."""
        return self._spoken(self._ranks[number, 5:])

    def questions(self, how_many: int, *, below: int) -> dict[str, NDArray[np.float32]]:
        """Return questions about texts drawn from the first `below`: their words, and their vectors of shape (384,)."""
        asked: dict[str, NDArray[np.float32]] = {}
        while len(asked) < how_many:
            number = int(self._generator.integers(below))
            ranks = self._generator.choice(self._ranks[number], _WORDS_A_QUESTION, replace=False)
            near = self.vectors[number] * np.sqrt(DIMENSIONS) + self._noise(1)[0]
            asked[self._spoken(ranks)] = _unit(near[np.newaxis])[0]
        return asked

    def _spoken(self, ranks: NDArray[np.signedinteger]) -> str:
        return " ".join(self._words[int(rank)] for rank in ranks)

    def _noise(self, rows: int) -> NDArray[np.float32]:
        return self._generator.normal(scale=0.7, size=(rows, DIMENSIONS)).astype(np.float32)


def as_text(vector: NDArray[np.float32]) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _pronounceable(how_many: int) -> list[str]:
    """Return different words of three syllables, without digits: what has digits would count as an identifier."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    size = len(syllables)
    # A step that shares no factor with the number of words visits each once, and not in alphabetical order.
    numbers = ((number * 100_003) % size**3 for number in range(how_many))
    return [
        syllables[n % size] + syllables[n // size % size] + syllables[n // size**2] + "k" for n in numbers
    ]
