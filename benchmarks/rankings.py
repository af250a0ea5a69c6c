"""How well rankings answer questions, and the rankings that ours are compared with."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

CUTS: Final = (5, 10)
DEPTH: Final = 100
# Words that ask rather than describe.
QUESTION_WORDS: Final = frozenset(
    {
        *("what", "when", "where", "which", "who", "whom", "whose", "why", "how"),
        *("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "would", "could"),
    }
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the ids of what answers it, and its kind where the corpus tells kinds apart."""

    text: str
    gold: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system made of one question.

    Attributes:
        metrics: by name: recall@k, any@k, all@k, NDCG@10.
        top: the first ten ids that it found.
    """

    question: str
    kind: str
    gold: tuple[str, ...]
    top: tuple[str, ...]
    metrics: dict[str, float]


class BM25:
    """BM25 as in the literature (k1 = 0.9, b = 0.4), over words stemmed by PostgreSQL's Snowball stemmer."""

    def __init__(self, documents: Sequence[list[str]]) -> None:
        k1, b = 0.9, 0.4
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        norm = k1 * (1 - b + b * lengths / lengths.mean())
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for word, count in Counter(document).items():
                postings[word].append((number, count))
        self._documents = len(documents)
        self._postings: dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]] = {}
        for word, found in postings.items():
            numbers = np.array([number for number, _ in found])
            counts = np.array([count for _, count in found], dtype=np.float64)
            idf = math.log(1 + (len(documents) - len(found) + 0.5) / (len(found) + 0.5))
            self._postings[word] = numbers, idf * counts * (k1 + 1) / (counts + norm[numbers])

    def scores(self, query: Iterable[str]) -> NDArray[np.float64]:
        """Return the score of each document, shape (documents,)."""
        scores = np.zeros(self._documents)
        for word in set(query):
            if word in self._postings:
                numbers, gains = self._postings[word]
                scores[numbers] += gains
        return scores


def best_first(ids: Sequence[str], scores: NDArray[np.floating[Any]]) -> list[str]:
    """Return the ids by falling score; of equals the first comes first."""
    return [ids[int(number)] for number in np.argsort(-scores, kind="stable")]


def fused(rankings: Sequence[Sequence[str]]) -> list[str]:
    """Fuse the first DEPTH of rankings by reciprocal rank (Cormack, Clarke and Büttcher, 2009; k = 60)."""
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for place, one in enumerate(ranking[:DEPTH], 1):
            scores[one] += 1 / (60 + place)
    return sorted(scores, key=lambda one: -scores[one])


def judge(question: Question, ranked: Sequence[str]) -> Outcome:
    """Compare a ranking with the gold; what stands in it twice counts where it stands first."""
    gold = tuple(dict.fromkeys(question.gold))
    top = tuple(dict.fromkeys(ranked))[: max(CUTS)]
    metrics: dict[str, float] = {}
    for k in CUTS:
        hits = len(set(gold) & set(top[:k]))
        metrics[f"recall@{k}"] = hits / len(gold)
        metrics[f"any@{k}"] = float(hits > 0)
        metrics[f"all@{k}"] = float(hits == len(gold))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(max(CUTS), len(gold))))
    gain = sum(1 / math.log2(place + 2) for place, found in enumerate(top) if found in gold)
    metrics[f"NDCG@{max(CUTS)}"] = gain / ideal
    return Outcome(question.text, question.kind, gold, top, metrics)


def without_question_words(text: str) -> str:
    """Return the words of a question that say what it is about."""
    return " ".join(word for word in re.findall(r"\w+", text) if word.lower() not in QUESTION_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def figure(values: Sequence[float]) -> Figure:
    """Return the mean of a metric over questions, or of a difference, with its interval."""
    sample = np.asarray(values, dtype=np.float64)
    # The same seed everywhere: of as many questions, the same questions are drawn.
    drawn = np.random.default_rng(1).integers(0, len(sample), (2000, len(sample)))
    low, high = np.percentile(sample[drawn].mean(axis=1), [2.5, 97.5])
    return Figure(mean=float(sample.mean()), low=float(low), high=float(high))
