"""Every error the package raises, as one tree.

The database speaks in SQLSTATEs of the form ``PTxyz``; the Data API turns them into HTTP status ``xyz``.
`error_from_sqlstate` is the one place where a SQLSTATE becomes an exception, for both transports.
"""

from __future__ import annotations


class KnowledgePersistenceError(Exception):
    """Base of every error of this package."""


class ConfigurationError(KnowledgePersistenceError):
    """A setting is missing, contradictory or unusable."""


class EmbeddedStackError(KnowledgePersistenceError):
    """The embedded stack can't start, stop or be found."""


class MigrationError(KnowledgePersistenceError):
    """A migration can't be applied, or the database's history differs from the files."""


class BackupError(KnowledgePersistenceError):
    """A backup can't be made, is damaged, or can't be restored as it was."""


class TransportError(KnowledgePersistenceError):
    """The deployment can't be reached, or the connection broke before an answer came.

    Attributes:
        may_have_arrived: whether the request may have been carried out all the same. False: it surely was
            not.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class NotRunningError(TransportError):
    """No deployment was named, and the data directory holds no embedded stack that could be meant."""


class EmbeddingError(KnowledgePersistenceError):
    """A text can't be embedded: no embedder, a failing provider, or a wrong answer from it.

    Attributes:
        unanswered: whether the provider gave no answer at all.
    """

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class RerankError(KnowledgePersistenceError):
    """A reranker gives no answer in time, or none that can be read."""


class ModelError(KnowledgePersistenceError):
    """A chat model gives no answer, or none that can be read."""


class APIError(KnowledgePersistenceError):
    """The deployment answered with an error.

    Attributes:
        code: the SQLSTATE (or the gateway's own code).
        status: the HTTP status it stands for.
        message: what went wrong.
        detail: more about it, or None.
        hint: what to do about it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message = message
        self.code = code
        self.status = status
        self.detail = detail
        self.hint = hint


class InvalidArgumentError(APIError):
    """PT400: an argument is missing, malformed or outside its range."""


class AuthenticationError(APIError):
    """PT401: nobody is signed in, or the token is expired, altered or unknown."""


class PermissionDeniedError(APIError):
    """PT403: the caller may not do this, or named a session or workspace that isn't theirs."""


class NotFoundError(APIError):
    """PT404: no such thing, or none that the caller may see."""


class ConflictError(APIError):
    """PT409: it collides with what is there already."""


class CursorExpiredError(APIError):
    """PT410: the event cursor is older than the log; resynchronise."""


class EmbeddingDimensionError(APIError):
    """PT422: a vector's length, or its model, is not what the registered model says."""


class CredentialError(APIError):
    """PT451: the text looks like it holds a credential."""


class ReadOnlyError(APIError):
    """25006: the database takes no writes, as a read replica does."""


class RateLimitError(APIError):
    """PT429: too many requests; try again later."""


class ServerError(APIError):
    """The deployment failed (5xx)."""


_BY_SQLSTATE: dict[str, type[APIError]] = {
    "PT400": InvalidArgumentError,
    "PT401": AuthenticationError,
    "PT403": PermissionDeniedError,
    "PT404": NotFoundError,
    "PT409": ConflictError,
    "PT410": CursorExpiredError,
    "PT422": EmbeddingDimensionError,
    "PT429": RateLimitError,
    "PT451": CredentialError,
    # PostgreSQL's own, as PostgREST maps them.
    "25006": ReadOnlyError,
    "42501": PermissionDeniedError,
    "23505": ConflictError,
    "23503": ConflictError,
    "23514": InvalidArgumentError,
    "23502": InvalidArgumentError,
    # Too complex: JSON of many levels, above all.
    "54001": InvalidArgumentError,
    "KP413": InvalidArgumentError,
    "PGRST301": AuthenticationError,
    "PGRST302": AuthenticationError,
    "PGRST303": AuthenticationError,
}

# The schema of this package is not there, or older than the client.
_NOT_MIGRATED = frozenset({"PGRST202", "PGRST205", "42883", "42P01", "3F000"})

# "Data exception": a value that the server can't take.
_DATA_EXCEPTION = "22"

_BY_STATUS: dict[int, type[APIError]] = {
    400: InvalidArgumentError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: CursorExpiredError,
    422: EmbeddingDimensionError,
    429: RateLimitError,
    451: CredentialError,
}

_STATUS_OF: dict[type[APIError], int] = {kind: status for status, kind in _BY_STATUS.items()} | {
    ReadOnlyError: 405
}


def error_from_sqlstate(
    code: str,
    message: str,
    *,
    status: int | None = None,
    detail: str | None = None,
    hint: str | None = None,
) -> APIError:
    """Make the exception that a SQLSTATE stands for.

    Args:
        code: five-character SQLSTATE, or a gateway code such as ``PGRST301``; may be empty.
        message: the server's primary message.
        status: the HTTP status, where there was one; it decides when the code is unknown.
        detail: the server's detail.
        hint: the server's hint.
    """
    kind = _BY_SQLSTATE.get(code)
    if kind is None and code.startswith(_DATA_EXCEPTION):
        kind = InvalidArgumentError
    if code in _NOT_MIGRATED:
        kind, status = ServerError, 500
        hint = hint or "is the schema there, and up to date? `kp migrate` applies it"
    if kind is ReadOnlyError:
        hint = (
            hint
            or "a read replica takes no writes: connect to the primary, and name the replica as replica_url"
        )
    if kind is None and status is not None:
        kind = _BY_STATUS.get(status)
    if kind is None:
        kind = APIError if status is not None and status < 500 else ServerError  # noqa: PLR2004
    return kind(
        message,
        code=code,
        status=status if status is not None else _STATUS_OF.get(kind, 500),
        detail=detail,
        hint=hint,
    )
