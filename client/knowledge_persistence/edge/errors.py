"""Errors as the Data API tells them: code, message, details, hint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from ..errors import APIError, EmbeddingError, KnowledgePersistenceError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: SQLSTATEs of a statement that took too long, or waited too long for another.
_TOO_LATE: Final = frozenset({"57014", "55P03"})
_UNAUTHORIZED: Final = 401
_LARGEST_STATUS: Final = 599


def answer(
    status: int,
    code: str,
    message: str,
    *,
    details: str | None = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make the answer that tells an error.

    Args:
        status: HTTP status.
        code: SQLSTATE or another code of five or so characters.
        message: what went wrong.
        details: more about it.
        hint: what to do about it.
        headers: to be sent along.
    """
    told = dict(headers or {})
    if status == _UNAUTHORIZED:
        told.setdefault("www-authenticate", 'Bearer realm="knowledge-persistence"')
    return JSONResponse(
        {"code": code, "message": message, "details": details, "hint": hint}, status, headers=told
    )


def slow_down(seconds: float) -> JSONResponse:
    """Make the answer for whoever sends too many requests.

    Args:
        seconds: after which one more is welcome.
    """
    return answer(
        429,
        "PT429",
        "too many requests",
        hint="wait as long as Retry-After says",
        headers={"retry-after": str(math.ceil(seconds))},
    )


def of_error(error: KnowledgePersistenceError) -> JSONResponse:
    """Make the answer that tells an error of the client: the database's own words, where they are its."""
    if isinstance(error, APIError):
        if error.code in _TOO_LATE:
            return answer(504, error.code, error.message, details=error.detail, hint=error.hint)
        return answer(
            min(error.status, _LARGEST_STATUS),
            error.code,
            error.message,
            details=error.detail or None,
            hint=error.hint or None,
        )
    if isinstance(error, TransportError):
        # Its text names hosts and ports, which are the operator's business.
        return answer(
            503,
            "PGRST001",
            "the database can't be reached just now; try again",
            headers={"retry-after": "1"},
        )
    if isinstance(error, EmbeddingError):
        return answer(
            503,
            "KP503",
            "the text can't be embedded just now; try again",
            hint="the function's log has the reason",
            headers={"retry-after": "5"},
        )
    return answer(500, "KP500", "the function failed", hint="its log says why")
