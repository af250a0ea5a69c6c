"""The static embedder: one fixed vector a token, averaged; a hundred times faster than the default, and weaker.

The model is WordLlama's ``l2_supercat`` at 256 dimensions (https://github.com/dleemiller/WordLlama), whose weights
and tokenizer lie in the package ``wordllama``. Of the package only those two files are read: its own code sets up
logging at import, and fetches over the network what it doesn't find.
"""

from __future__ import annotations

import hashlib
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from knowledge_persistence.errors import ConfigurationError, EmbeddingError

from .base import BaseEmbedder, Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

MODEL_NAME: Final = "wordllama-l2-256"
DIMENSIONS: Final = 256
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
#: sha256 of the files that are read.
_SHA256: Final = {
    _WEIGHTS: "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    _TOKENIZER: "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
}


# What is used of the packages, one of which ships no types.
class _Encoding(Protocol):
    ids: list[int]


class _Tokenizer(Protocol):
    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[_Encoding]: ...


class StaticEmbedder(BaseEmbedder):
    """Embed with static token vectors: 256 dimensions, texts of any length, thousands a second.

    Needs the extra ``static``. The model is loaded at first use.

    Args:
        name: the name under which the model is registered in the database.
        cache_size: number of query embeddings kept.

    Raises:
        ConfigurationError: at first use, when the extra is not installed or its files are not the expected ones.
    """

    def __init__(self, *, name: str = MODEL_NAME, cache_size: int = 1024) -> None:
        super().__init__(name=name, dimensions=DIMENSIONS, cache_size=cache_size)
        self._loading = threading.Lock()
        self._loaded: tuple[_Tokenizer, NDArray[np.float32]] | None = None

    def _load(self) -> tuple[_Tokenizer, NDArray[np.float32]]:
        with self._loading:
            if self._loaded is None:
                import numpy as np  # noqa: PLC0415 - not needed by commands that embed nothing

                directory = _package_directory()
                read = {name: _read(directory / name) for name in (_WEIGHTS, _TOKENIZER)}
                tensors = cast(
                    "dict[str, NDArray[np.float16]]", import_module("safetensors.numpy").load(read[_WEIGHTS])
                )
                tokenizer = import_module("tokenizers").Tokenizer.from_str(read[_TOKENIZER].decode())
                tokenizer.no_padding()
                tokenizer.no_truncation()
                self._loaded = (
                    cast("_Tokenizer", tokenizer),
                    tensors["embedding.weight"].astype(np.float32),
                )
            return self._loaded

    def count_tokens(self, text: str) -> int:
        """Count a text's tokens; none is ever cut."""
        return len(self._load()[0].encode_batch([text], add_special_tokens=False)[0].ids)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np  # noqa: PLC0415

        tokenizer, tokens = self._load()
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, encoding in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            ids = np.minimum(np.asarray(encoding.ids, dtype=np.int64), len(tokens) - 1)
            if not len(ids):
                raise EmbeddingError("the static model knows nothing of a text without a token")
            mean = tokens[ids].mean(axis=0)
            vectors[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors


def is_installed() -> bool:
    """Say whether the extra ``static`` is installed."""
    return find_spec("wordllama") is not None and find_spec("tokenizers") is not None


def _package_directory() -> Path:
    spec = find_spec("wordllama") if is_installed() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"the embedding model {MODEL_NAME} needs an extra: pip install 'knowledge-persistence[static]'"
        )
    return Path(spec.submodule_search_locations[0])


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read: {error.strerror}; reinstall wordllama==0.4.0.post1"
        ) from error
    expected = _SHA256[path.relative_to(path.parents[1]).as_posix()]
    if (digest := hashlib.sha256(data).hexdigest()) != expected:
        raise ConfigurationError(
            f"{path} has sha256 {digest}, not {expected}: it is not used; reinstall wordllama==0.4.0.post1"
        )
    return data
