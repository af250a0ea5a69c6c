"""Where a client connects and as whom: forged identities first, then the order in which sources count."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from knowledge_persistence import connect
from knowledge_persistence._jwt import verified_claims
from knowledge_persistence._target import DirectTarget, HttpTarget, resolve_target, verify_token
from knowledge_persistence.errors import AuthenticationError, ConfigurationError, NotRunningError
from knowledge_persistence.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "0123456789abcdef0123456789abcdef"
DSN = "postgresql://authenticator:x@127.0.0.1:1/postgres"
ORIGIN = "http://127.0.0.1:54399"


def claims(**changes: Any) -> dict[str, Any]:
    base = {
        "sub": str(uuid4()),
        "role": "authenticated",
        "aud": "authenticated",
        "exp": int(time.time()) + 600,
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def token(secret: str = SECRET, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm="HS256")


def altered(encoded: str, **changes: Any) -> str:
    head, body, signature = encoded.split(".")
    payload = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(payload | changes).encode()).rstrip(b"=").decode()
    return f"{head}.{forged}.{signature}"


def settings(home: Path, **values: Any) -> Settings:
    return Settings(home=home, **values)


# Forged identities


@pytest.mark.parametrize(
    "forge",
    [
        lambda: altered(token(), sub=str(uuid4())),
        lambda: altered(token(), role="service_role"),
        lambda: altered(token(exp=1), exp=int(time.time()) + 600),
        lambda: token("another secret of the same length!!!"),
        lambda: jwt.encode(claims(), None, algorithm="none"),
        lambda: token(exp=int(time.time()) - 60),
        lambda: token(exp=None),
        lambda: token(sub=None),
        lambda: token(aud="somebody else"),
        lambda: token(role="service_role"),
        lambda: token(role="anon"),
        lambda: token(role=None),
        lambda: "not a token",
        lambda: "",
    ],
)
def test_a_token_that_is_not_genuine_is_refused(tmp_path: Path, forge: Callable[[], str]) -> None:
    forged = forge()
    with pytest.raises((AuthenticationError, ConfigurationError)):
        connect(DSN, access_token=forged, jwt_secret=SECRET, settings=settings(tmp_path), embedder=None)


def test_a_token_without_the_means_to_verify_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="jwt_secret"):
        resolve_target(settings(tmp_path), url=DSN, access_token=token())


def test_a_token_of_somebody_else_than_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not the user"):
        resolve_target(settings(tmp_path), url=DSN, access_token=token(), jwt_secret=SECRET, user_id=uuid4())


def test_a_public_key_is_no_shared_secret() -> None:
    """The classic: a token signed, with HMAC, by what everybody may know."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    key_set = json.dumps({"keys": [public | {"kid": "k", "alg": "ES256"}]})
    genuine = jwt.encode(claims(), key, algorithm="ES256", headers={"kid": "k"})
    assert verify_token(genuine, key_set)["role"] == "authenticated"

    # PyJWT won't sign with that; an attacker would.
    head = {"alg": "HS256", "typ": "JWT", "kid": "k"}
    signed = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, claims())
    )
    signature = (
        base64.urlsafe_b64encode(hmac.digest(key_set.encode(), signed.encode(), "sha256"))
        .rstrip(b"=")
        .decode()
    )
    with pytest.raises(AuthenticationError):
        verify_token(f"{signed}.{signature}", key_set)
    stranger = jwt.encode(
        claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "k"}
    )
    with pytest.raises(AuthenticationError):
        verify_token(stranger, key_set)


def test_a_mixed_key_set_chooses_by_key_id() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    shared = {
        "kty": "oct",
        "k": base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode(),
        "alg": "HS256",
    }
    key_set = json.dumps({"keys": [public | {"kid": "new", "alg": "ES256"}, shared | {"kid": "old"}]})
    assert verify_token(jwt.encode(claims(), SECRET, "HS256", headers={"kid": "old"}), key_set)
    with pytest.raises(AuthenticationError):
        verify_token(jwt.encode(claims(), SECRET, "HS256", headers={"kid": "new"}), key_set)
    with pytest.raises(AuthenticationError, match="no key"):
        verify_token(jwt.encode(claims(), SECRET, "HS256", headers={"kid": "unheard-of"}), key_set)
    assert verify_token(jwt.encode(claims(), SECRET, "HS256"), key_set), (
        "any shared secret may have signed it"
    )
    with pytest.raises(AuthenticationError):
        verify_token(jwt.encode(claims(), key, "ES256"), key_set)


def test_the_functions_take_tokens_that_are_for_nobody_and_a_client_only_its_users() -> None:
    for role, audience in (("service_role", None), ("authenticated", "another"), ("authenticated", None)):
        of_the_deployment = token(role=role, aud=audience)
        assert verified_claims(of_the_deployment, SECRET, audience=None)["role"] == role
        with pytest.raises(AuthenticationError):
            verify_token(of_the_deployment, SECRET)
    a_users = token()
    assert verify_token(a_users, SECRET) == verified_claims(a_users, SECRET, audience=None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": DSN},
        {"url": DSN, "email": "a@example.org", "password": "x"},
        {"url": DSN, "user_id": "not an id"},
        {"url": DSN, "user_id": str(uuid4()), "service_role": True},
        {"url": ORIGIN},
        {"url": ORIGIN, "api_key": "k", "user_id": str(uuid4())},
        {"url": ORIGIN, "api_key": "k", "email": "a@example.org"},
        {"url": ORIGIN, "api_key": "k", "service_role": True, "access_token": "t"},
        {"url": ORIGIN, "api_key": "sb_publishable_x", "service_role": True},
        {"url": "ftp://example.org"},
        {"url": "example.org"},
    ],
)
def test_who_and_where_must_be_clear(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"\w") as caught:
        resolve_target(settings(tmp_path), **arguments)
    assert type(caught.value).__name__ in {"ConfigurationError", "InvalidArgumentError"}


def test_without_a_url_and_a_stack_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="kp up"):
        connect(settings=settings(tmp_path), embedder=None)


# What is allowed


def test_a_genuine_token_states_its_claims(tmp_path: Path) -> None:
    genuine = token(email="a@example.org")
    target = resolve_target(settings(tmp_path, jwt_secret=SECRET), url=DSN, access_token=genuine)
    assert isinstance(target, DirectTarget)
    assert target.role == "authenticated"
    assert target.claims["email"] == "a@example.org"


def test_arguments_count_before_settings(tmp_path: Path) -> None:
    known = settings(
        tmp_path, url="https://kp.example.org", api_key="from-settings", access_token="t-settings"
    )
    target = resolve_target(known)
    assert isinstance(target, HttpTarget)
    assert (target.url, target.api_key, target.access_token, target.store) == (
        "https://kp.example.org",
        "from-settings",
        "t-settings",
        None,
    )
    target = resolve_target(known, url=ORIGIN + "/", api_key="k", email="a@example.org", password="p")
    assert isinstance(target, HttpTarget)
    assert (target.url, target.api_key, target.access_token, target.email) == (
        ORIGIN,
        "k",
        None,
        "a@example.org",
    )


def test_the_embedded_stack_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(
        json.dumps(
            {
                "ports": {"origin": 54399, "database": 54400},
                "publishable_key": "sb_publishable_x",
                "secret_key": "sb_secret_x",
                "jwt_secret": SECRET,
                "passwords": {"authenticator": "pw"},
            }
        )
    )
    target = resolve_target(settings(tmp_path))
    assert isinstance(target, HttpTarget)
    assert (target.url, target.api_key) == (ORIGIN, "sb_publishable_x")
    assert target.store is not None
    service = resolve_target(settings(tmp_path), service_role=True)
    assert isinstance(service, HttpTarget)
    assert (service.api_key, service.service_role, service.store) == ("sb_secret_x", True, None)


def test_a_damaged_stack_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"stack\.json"):
        resolve_target(settings(tmp_path))


def test_targets_keep_their_secrets_out_of_logs(tmp_path: Path) -> None:
    direct = resolve_target(settings(tmp_path), url="postgresql://a:hunter2@h/db", user_id=uuid4())
    http = resolve_target(settings(tmp_path), url=ORIGIN, api_key="secret-key", email="e", password="hunter2")
    assert "hunter2" not in repr(direct) + repr(http)
    assert "secret-key" not in repr(http)
