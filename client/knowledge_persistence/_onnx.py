"""What is used of onnxruntime, which ships no types, and how its sessions are made here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OnnxNode(Protocol):
    """An input or output of a model."""

    name: str
    shape: list[int | str]


class OnnxSession(Protocol):
    """A model that is ready to run."""

    def get_inputs(self) -> list[OnnxNode]:
        """Return what the model takes."""
        ...

    def get_outputs(self) -> list[OnnxNode]:
        """Return what the model gives."""
        ...

    def run(self, output_names: None, input_feed: dict[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Run the model on a batch, and return its outputs."""
        ...


class OnnxRuntime:
    """The runtime; importing it takes a tenth of a second that most commands don't need."""

    def __init__(self) -> None:
        self._module = cast("_Module", import_module("onnxruntime"))

    def open(self, model: bytes | str) -> OnnxSession:
        """Make a session on the CPU.

        Args:
            model: the content of an ONNX file, or its path.

        Raises:
            Exception: the model can't be loaded; onnxruntime's own exceptions share no public base.
        """
        options = self._module.SessionOptions()
        # Threads that spin between operators take the cores from the database beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return self._module.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Options(Protocol):
    log_severity_level: int

    def add_session_config_entry(self, key: str, value: str) -> None: ...


class _Module(Protocol):
    def SessionOptions(self) -> _Options: ...  # noqa: N802
    def InferenceSession(  # noqa: N802
        self, path_or_bytes: bytes | str, sess_options: _Options, *, providers: list[str]
    ) -> OnnxSession: ...
