"""Signed tokens: whether one of a deployment's keys has signed it, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from .errors import AuthenticationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALGORITHMS: Final = frozenset({"HS256", "ES256", "ES384", "RS256", "RS384", "RS512", "EdDSA"})
#: Seconds by which the clocks of whoever signs and whoever verifies may differ.
_LEEWAY: Final = 5


def verified_claims(token: str, keys: str, *, audience: str | None) -> Mapping[str, object]:
    """Verify a token's signature and time, and return its claims. Whose it is, is for the caller to look at.

    Args:
        token: the token.
        keys: the shared secret, or a JSON Web Key Set (as text) for asymmetric and mixed keys.
        audience: whom it has to be for; None: anybody. A deployment's own keys, as tokens, are for nobody in
            particular.

    Raises:
        AuthenticationError: it is altered, expired, for somebody else, or of another deployment.
    """
    import jwt  # noqa: PLC0415 - brings the cryptography along, and few need it

    try:
        wrong: jwt.PyJWTError = jwt.InvalidTokenError("no key signed it")
        for key, algorithm in _candidates(token, keys):
            try:
                return cast(
                    "dict[str, object]",
                    jwt.decode(
                        token,
                        cast("str", key),
                        algorithms=[algorithm],
                        audience=audience,
                        options={"require": ["exp"], "verify_aud": audience is not None},
                        leeway=_LEEWAY,
                    ),
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
                wrong = error
    except (jwt.PyJWTError, ValueError) as error:
        raise refused(str(error)) from error
    raise refused(str(wrong)) from wrong


def refused(why: str) -> AuthenticationError:
    """Make the error for a token that is not accepted."""
    return AuthenticationError(
        f"the access token is not accepted: {why}", code="PT401", status=401, hint="sign in again"
    )


def _candidates(token: str, keys: str) -> list[tuple[object, str]]:
    """Return the keys that may have signed a token, each with its algorithm."""
    import jwt  # noqa: PLC0415 - see verified_claims

    if not keys.lstrip().startswith("{"):
        return [(keys, "HS256")]
    known = jwt.PyJWKSet.from_json(keys).keys
    name = jwt.get_unverified_header(token).get("kid")
    # A token that names no key may be of any shared secret: during a rotation there are two. The key says its
    # algorithm; the token's word for it is not taken.
    chosen = (
        [one for one in known if one.key_id == name]
        if name is not None
        else [one for one in known if one.algorithm_name == "HS256"]
    ) or (known if len(known) == 1 else [])
    return [(one.key, one.algorithm_name) for one in chosen if one.algorithm_name in _ALGORITHMS]
