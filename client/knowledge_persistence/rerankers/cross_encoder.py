"""A cross-encoder on the CPU, offline: a BERT that reads query and text together and gives one number.

Such as the ms-marco MiniLM models of sentence-transformers in ONNX (Nogueira and Cho, 2019, "Passage re-ranking with
BERT"). None comes in a package, so whoever wants one names its file.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from knowledge_persistence._onnx import OnnxRuntime
from knowledge_persistence.embedders.wordpiece import WordPiece
from knowledge_persistence.errors import ConfigurationError, RerankError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from knowledge_persistence._onnx import OnnxSession

MAX_TOKENS: Final = 512
#: A query takes no more of them.
_QUERY_TOKENS: Final = 128
# Few at a time: between them is looked at the clock.
_BATCH: Final = 8


class CrossEncoder:
    """Rerank with a cross-encoder of one's own.

    It is loaded at first use, which counts as part of the wait.

    Args:
        path: an ONNX file that takes input_ids, attention_mask and mostly token_type_ids, and gives one number a pair.
            It must read BERT's uncased vocabulary, or the one in the file ``vocab.txt`` beside it. Whoever names a
            file vouches for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loading = threading.Lock()
        self._loaded: tuple[OnnxSession, WordPiece] | None = None

    @property
    def name(self) -> str:
        """The file."""
        return f"the cross-encoder {self._path}"

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float) -> list[float]:
        """Score texts; see `Reranker.rerank`."""
        deadline = time.monotonic() + timeout
        session, tokenizer = self._load()
        question, _ = tokenizer.encode(query, max_tokens=_QUERY_TOKENS)
        # The second text begins after the separator that ends the first.
        encoded = [
            tokenizer.encode(document, max_tokens=MAX_TOKENS - len(question) + 1)[0][1:]
            for document in documents
        ]
        scores = [0.0] * len(documents)
        order = sorted(range(len(documents)), key=lambda index: len(encoded[index]))
        for start in range(0, len(order), _BATCH):
            if time.monotonic() > deadline:
                raise RerankError(f"{self.name} gave no answer within {timeout:g} s")
            chosen = order[start : start + _BATCH]
            for index, score in zip(
                chosen, self._run(session, tokenizer, question, [encoded[one] for one in chosen]), strict=True
            ):
                scores[index] = score
        return scores

    def _run(
        self, session: OnnxSession, tokenizer: WordPiece, question: list[int], texts: Sequence[list[int]]
    ) -> list[float]:
        import numpy as np  # noqa: PLC0415 - not needed by commands that rerank nothing

        width = len(question) + max(len(text) for text in texts)
        ids = np.full((len(texts), width), tokenizer.pad_id, dtype=np.int64)
        mask, kinds = np.zeros_like(ids), np.zeros_like(ids)
        for row, text in enumerate(texts):
            end = len(question) + len(text)
            ids[row, :end] = question + text
            mask[row, :end] = 1
            kinds[row, len(question) : end] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        wanted = {node.name for node in session.get_inputs()}
        answer = session.run(None, {name: value for name, value in feed.items() if name in wanted})[0]
        if answer.size != len(texts):
            raise ConfigurationError(
                f"{self.name} gives {answer.shape} for {len(texts)} pairs; it should give one number a pair"
            )
        return [float(score) for score in answer.reshape(-1)]

    def _load(self) -> tuple[OnnxSession, WordPiece]:
        with self._loading:
            if self._loaded is None:
                vocabulary = self._path.parent / "vocab.txt"
                try:
                    own = vocabulary.read_text("utf-8") if vocabulary.exists() else None
                except (OSError, ValueError) as error:
                    raise ConfigurationError(f"{vocabulary} can't be read: {error}") from error
                runtime = OnnxRuntime()
                try:
                    session = runtime.open(str(self._path))
                except Exception as error:  # onnxruntime's own exceptions share no public base
                    raise ConfigurationError(
                        f"{self.name} can't be loaded: {error}; KP_RERANK_MODEL_PATH names it"
                    ) from error
                inputs = {node.name for node in session.get_inputs()}
                if not {"input_ids", "attention_mask"} <= inputs:
                    raise ConfigurationError(
                        f"{self.name} takes {sorted(inputs)}; it should take input_ids and attention_mask"
                    )
                self._loaded = session, WordPiece(own)
            return self._loaded
