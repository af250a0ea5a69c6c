"""What all embedders share: the interface, prefixes, the query cache, checks of the answer."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from knowledge_persistence.errors import EmbeddingDimensionError, EmbeddingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]
    Vectors: TypeAlias = NDArray[np.float32]
else:
    Vector = Vectors = object


@runtime_checkable
class Embedder(Protocol):
    """Turns text into vectors of one registered model.

    The methods may block (they compute, or wait for a server) and may be called from several threads; the
    async client and the worker call them in threads of their own.
    """

    @property
    def name(self) -> str:
        """The name under which the model is registered in `embedding_models`."""
        ...

    @property
    def dimensions(self) -> int | None:
        """Length of the model's vectors; None until the first answer where only the server knows it."""
        ...

    def embed_documents(self, texts: Sequence[str], *, prefix: str = "") -> Vectors:
        """Embed texts to be stored.

        Args:
            texts: n texts, none of them blank.
            prefix: what the model wants in front of a document.

        Returns:
            float32 array of shape (n, dimensions).

        Raises:
            EmbeddingError: the texts can't be embedded.
        """
        ...

    def embed_query(self, text: str, *, prefix: str = "") -> Vector:
        """Embed a question.

        Args:
            text: the question, not blank.
            prefix: what the model wants in front of a question.

        Returns:
            float32 array of shape (dimensions,).

        Raises:
            EmbeddingError: the text can't be embedded.
        """
        ...


class BaseEmbedder(ABC):
    """An `Embedder` lacking only the model.

    Args:
        name: the registered model's name.
        dimensions: length of its vectors, or None where the first answer tells.
        cache_size: number of query embeddings kept, the least recently used going first; 0 keeps none.
    """

    def __init__(self, *, name: str, dimensions: int | None, cache_size: int) -> None:
        self._name = name
        self._dimensions: int | None = dimensions
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._make_sibling: Callable[[str, int], Embedder | None] | None = None
        self._siblings: dict[str, Embedder | None] = {}

    def follow(self, make: Callable[[str, int], Embedder | None]) -> None:
        """Let clients ask with another model where the deployment has come to serve another.

        Args:
            make: makes the embedder of a model by its name and dimensions; None where it can't.
        """
        self._make_sibling = make

    @property
    def follows(self) -> bool:
        """Whether there may be a sibling for another model."""
        return self._make_sibling is not None

    def sibling(self, name: str, dimensions: int) -> Embedder | None:
        """Return the embedder of another model, made at the first call; None where it can't be made."""
        with self._cache_lock:
            if name not in self._siblings:
                self._siblings[name] = (
                    None if self._make_sibling is None else self._make_sibling(name, dimensions)
                )
            return self._siblings[name]

    def close(self) -> None:
        """Let go of the connections, and of the siblings'. It may be used again, and then makes new ones."""
        with self._cache_lock:
            siblings = list(self._siblings.values())
        for sibling in siblings:
            if isinstance(sibling, BaseEmbedder):
                sibling.close()

    @property
    def name(self) -> str:
        """The name under which the model is registered."""
        return self._name

    @property
    def dimensions(self) -> int | None:
        """Length of the model's vectors."""
        return self._dimensions

    def count_tokens(self, text: str) -> int:
        """Count a text's tokens as the model reads them; an estimate where only a server has the tokenizer.

        Args:
            text: any text, without a prefix.
        """
        # What tokenizers make of English prose, about.
        return -(-len(text) // 4)

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Vectors:
        """Embed n texts into an array of shape (n, dimensions)."""

    def embed_documents(self, texts: Sequence[str], *, prefix: str = "") -> Vectors:
        """Embed texts to be stored; see `Embedder.embed_documents`."""
        import numpy as np  # noqa: PLC0415 - not needed by commands that embed nothing

        if not texts:
            return np.empty((0, self._dimensions or 0), dtype=np.float32)
        return self._checked(texts, self._embed([prefix + text for text in texts]))

    def embed_query(self, text: str, *, prefix: str = "") -> Vector:
        """Embed a question, or return what it was embedded to before; see `Embedder.embed_query`."""
        key = (prefix, text)
        with self._cache_lock:
            if (known := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                return known
        vector = self._checked([text], self._embed([prefix + text]))[0]
        # The same array is handed to everybody who asks again.
        vector.flags.writeable = False
        if self._cache_size > 0:
            with self._cache_lock:
                self._cache[key] = vector
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        return vector

    def _checked(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        import numpy as np  # noqa: PLC0415

        if vectors.ndim != 2 or vectors.shape[0] != len(texts):  # noqa: PLR2004
            raise EmbeddingError(
                f"{self._name} was asked to embed {len(texts)} texts and answered with shape {vectors.shape}"
            )
        if self._dimensions is None:
            self._dimensions = int(vectors.shape[1])
        if vectors.shape[1] != self._dimensions:
            raise dimension_error(self._name, got=int(vectors.shape[1]), expected=self._dimensions)
        if not np.isfinite(vectors).all():
            raise EmbeddingError(f"{self._name} answered with numbers that are not finite")
        if not np.any(vectors, axis=1).all():
            raise EmbeddingError(f"{self._name} answered with a vector of nothing but zeros")
        return vectors


def dimension_error(model: str, *, got: int, expected: int) -> EmbeddingDimensionError:
    """Make the error for a vector of the wrong length."""
    return EmbeddingDimensionError(
        f"a vector of {got} dimensions was given for {model}, which has {expected}",
        code="PT422",
        status=422,
        hint="embed with the model that the deployment registers, or register yours",
    )
