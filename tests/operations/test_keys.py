"""Generated keys, checked by other libraries than the one that made them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import stat
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from dotenv import dotenv_values
from jwcrypto import jwk, jws
from jwcrypto import jwt as jose

from knowledge_persistence.errors import ConfigurationError
from knowledge_persistence.operations.keys import fill_in, generate_secrets, is_opaque_key, opaque_key

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "generate-keys"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return generate_secrets()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


def verified(token: str, key: jwk.JWK | jwk.JWKSet) -> dict[str, object]:
    return json.loads(jose.JWT(jwt=token, key=key, expected_type="JWS").claims)


def test_a_foreign_key_verifies_nothing(made: dict[str, str]) -> None:
    other = generate_secrets()
    with pytest.raises((jws.InvalidJWSSignature, jose.JWTMissingKey, jws.InvalidJWSObject)):
        verified(made["ANON_KEY_ASYMMETRIC"], jwk.JWKSet.from_json(other["JWT_JWKS"]))
    with pytest.raises(jws.InvalidJWSSignature):
        verified(made["SERVICE_ROLE_KEY"], jwk.JWK.from_password(other["JWT_SECRET"]))


@pytest.mark.parametrize(("name", "role"), [("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")])
def test_tokens_verify_with_the_published_keys(made: dict[str, str], name: str, role: str) -> None:
    keys = jwk.JWKSet.from_json(made["JWT_JWKS"])
    signed, legacy = made[f"{name}_ASYMMETRIC"], made[name]
    claims = verified(signed, keys)
    assert claims == verified(legacy, jwk.JWK.from_password(made["JWT_SECRET"]))
    assert (claims["role"], claims["iss"]) == (role, "supabase")
    assert 4.9 < (claims["exp"] - time.time()) / (365 * 24 * 3600) < 5.01
    header = json.loads(base64.urlsafe_b64decode(signed.split(".")[0] + "=="))
    [ec] = [key for key in keys if key["kty"] == "EC"]
    assert (header["alg"], header["kid"]) == ("ES256", ec["kid"])
    # The name of the key is its thumbprint: anybody can tell which key it is.
    assert ec["kid"] == ec.thumbprint()


def test_the_published_keys_hold_no_private_one(made: dict[str, str]) -> None:
    private, shared = json.loads(made["JWT_KEYS"])
    public, shared_too = json.loads(made["JWT_JWKS"])["keys"]
    assert "d" not in public
    assert jwk.JWK(**private).has_private
    assert jwk.JWK(**private).thumbprint() == jwk.JWK(**public).thumbprint()
    # Auth starts with one key that signs, no more and no less.
    assert private["key_ops"] == ["sign", "verify"]
    assert "sign" not in shared.get("key_ops", [])
    assert base64.urlsafe_b64decode(shared_too["k"] + "==") == made["JWT_SECRET"].encode()


@pytest.mark.parametrize("kind", ["publishable", "secret"])
def test_opaque_keys_have_the_documented_format(kind: str) -> None:
    key = opaque_key(kind)
    found = re.fullmatch(rf"(sb_{kind}_[A-Za-z0-9_-]{{22}})_([A-Za-z0-9_-]{{8}})", key)
    assert found is not None
    digest = hashlib.sha256(b"supabase-self-hosted|" + found[1].encode()).digest()
    assert found[2] == base64.urlsafe_b64encode(digest)[:8].decode()
    assert is_opaque_key(key)
    wrong = key[:20] + ("A" if key[20] != "A" else "B") + key[21:]
    assert not is_opaque_key(wrong)
    assert not is_opaque_key(key + "x")


def test_lengths_are_what_the_services_take(made: dict[str, str]) -> None:
    exactly = {"REALTIME_DB_ENC_KEY": 16, "VAULT_ENC_KEY": 32}
    at_least = {"JWT_SECRET": 32, "SECRET_KEY_BASE": 64, "PG_META_CRYPTO_KEY": 32, "DASHBOARD_PASSWORD": 16}
    assert {name: len(made[name]) for name in exactly} == exactly
    assert all(len(made[name]) >= length for name, length in at_least.items())
    # These two go into URLs.
    assert all(made[name].isalnum() for name in ("POSTGRES_PASSWORD", "AUTHENTICATOR_PASSWORD"))


def test_secrets_are_random() -> None:
    many = [generate_secrets() for _ in range(40)]
    for name in many[0]:
        if name == "DASHBOARD_USERNAME":
            continue
        values = {one[name] for one in many}
        assert len(values) == len(many), name
    # Shannon's entropy over all characters of a kind: near the alphabet's, where they are drawn evenly.
    hexadecimal = Counter("".join(one["POSTGRES_PASSWORD"] + one["JWT_SECRET"] for one in many))
    base64url = Counter("".join(one["SUPABASE_SECRET_KEY"][10:32] for one in many))
    for counts, size in ((hexadecimal, 16), (base64url, 64)):
        total = counts.total()
        entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
        assert entropy > 0.97 * math.log2(size), counts


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "env"
    first = run("--output", output)
    assert (first.returncode, first.stdout) == (0, "")
    written = output.read_bytes()
    again = run("--output", output)
    assert again.returncode == 1
    assert "there already" in again.stderr
    assert output.read_bytes() == written
    assert run("--output", output, "--force", "--dry-run").returncode == 0
    assert output.read_bytes() == written
    assert run("--output", output, "--force").returncode == 0
    assert output.read_bytes() != written
    assert list(tmp_path.iterdir()) == [output], "something was left behind"


def test_the_file_is_the_owners_alone_and_reads_back(tmp_path: Path) -> None:
    output = tmp_path / "env"
    assert run("--output", output).returncode == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    read = dotenv_values(output)
    assert set(read) == set(generate_secrets())
    assert all(read.values())
    assert json.loads(read["JWT_JWKS"] or "")["keys"]
    # It is the example with the gaps filled in: every comment is still there.
    example = (ROOT / ".env.example").read_text()
    assert [line for line in example.splitlines() if line.startswith("#")] == [
        line for line in output.read_text().splitlines() if line.startswith("#")
    ]


def test_a_template_that_lacks_a_variable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no variable B"):
        fill_in("A=\n", {"A": "1", "B": "2"})
