"""What travels between the client and the transports: request context, arguments, vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast
from uuid import UUID

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    import numpy as np
    from numpy.typing import NDArray

    from .models import JSON

Row: TypeAlias = "Mapping[str, object]"

#: How a call may be repeated: a read changes nothing; a repeatable write leaves the same state when it is
#: done twice; anything else is done once, and never again once it may have reached the server.
CallMode: TypeAlias = Literal["read", "repeatable", "once"]

#: JSON that is nested deeper is nobody's context; every level takes from the stack of whoever reads it.
_JSON_DEPTH: Final = 100

Scalar: TypeAlias = "str | int | float | bool | UUID | datetime"
Argument: TypeAlias = "Scalar | Sequence[str] | Sequence[UUID] | JsonArgument | VectorArgument | None"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The workspace and the session that a request names; None names none."""

    workspace: UUID | None = None
    session: UUID | None = None


@dataclass(frozen=True, slots=True)
class JsonArgument:
    """A value for a jsonb parameter."""

    value: JSON


@dataclass(frozen=True, slots=True)
class VectorArgument:
    """A value for a vector parameter: float32 array of shape (dimensions,)."""

    values: NDArray[np.float32]

    def text(self) -> str:
        """Write it as PostgreSQL reads it, with the nine digits that tell each float32 from the next."""
        return vector_text(self.values)


def vector_text(values: NDArray[np.float32]) -> str:
    """Write a vector as text, ``[1,2.5]``.

    Args:
        values: float32 array of shape (dimensions,).
    """
    return "[" + ",".join([f"{value:.9g}" for value in values.tolist()]) + "]"


def to_vector(values: Sequence[float] | NDArray[np.float32]) -> VectorArgument:
    """Check a vector and make an argument of it.

    Args:
        values: numbers, or an array of shape (dimensions,).

    Raises:
        InvalidArgumentError: it is empty, of more than one dimension, or holds what is no finite number.
    """
    import numpy as np  # noqa: PLC0415 - not needed by calls without a vector

    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise invalid(f"that is not a vector: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise invalid(f"a vector has one dimension and at least one number, not the shape {array.shape}")
    if not np.isfinite(array).all():
        raise invalid("a vector holds finite numbers only")
    return VectorArgument(array)


def invalid(message: str, hint: str | None = None) -> InvalidArgumentError:
    """Make the error for an argument that needs no server to be refused."""
    return InvalidArgumentError(message, code="PT400", status=400, hint=hint)


def to_id(value: UUID | str, what: str) -> UUID:
    """Return an id as a UUID.

    Args:
        value: a UUID or its text.
        what: what it names, for the message.

    Raises:
        InvalidArgumentError: it is no UUID.
    """
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise invalid(f"{value!r} is not the id of a {what}: that is a UUID") from error


def interval_text(value: timedelta | None) -> str | None:
    """Write a duration as PostgreSQL reads it; None stays None."""
    return None if value is None else f"{value.total_seconds():.6f} seconds"


def is_id(value: UUID | str) -> bool:
    """Say whether something is a UUID or the text of one."""
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True


def check_argument(name: str, argument: Argument) -> None:
    """Refuse what no database keeps: text with NUL or half a character, JSON without a bottom.

    Args:
        name: the parameter, for the message.
        argument: its value.

    Raises:
        InvalidArgumentError: it is or holds such a thing.
    """
    if isinstance(argument, str):
        check_text(name, argument)
    elif isinstance(argument, JsonArgument):
        _check_json(name, argument.value)
    elif isinstance(argument, (list, tuple)):
        for one in cast("Sequence[object]", argument):
            if isinstance(one, str):
                check_text(name, one)


def check_text(name: str, text: str) -> None:
    """Refuse text that can't be stored.

    Args:
        name: what it is, for the message.
        text: the text.

    Raises:
        InvalidArgumentError: it holds NUL, or a surrogate without its other half.
    """
    if "\0" in text:
        raise invalid(f"{name}: a text can't hold the character NUL")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            f"{name}: half a character stands at position {error.start} (a surrogate without the other)",
            "was it cut in the middle of a character, or read with another encoding than it was written in?",
        ) from error


def _check_json(name: str, value: JSON) -> None:
    level: list[object] = [value]
    for _ in range(_JSON_DEPTH):
        inner: list[object] = []
        for one in level:
            if isinstance(one, str):
                check_text(name, one)
            elif isinstance(one, dict):
                inner.extend(cast("dict[str, object]", one).keys())
                inner.extend(cast("dict[str, object]", one).values())
            elif isinstance(one, (list, tuple)):
                inner.extend(cast("Sequence[object]", one))
        level = inner
        if not level:
            return
    raise invalid(f"{name}: the JSON is nested deeper than {_JSON_DEPTH} levels")


def json_argument(argument: Argument) -> JSON:
    """Turn an argument into JSON; vectors go as text, since not every gateway takes arrays."""
    if isinstance(argument, JsonArgument):
        return argument.value
    if isinstance(argument, VectorArgument):
        return argument.text()
    if isinstance(argument, UUID):
        return str(argument)
    if isinstance(argument, datetime):
        return argument.isoformat()
    if isinstance(argument, float) and not math.isfinite(argument):
        raise invalid(f"{argument} is not a finite number")
    if isinstance(argument, (str, int, float)) or argument is None:
        return argument
    return [str(one) for one in cast("Sequence[object]", argument)]
