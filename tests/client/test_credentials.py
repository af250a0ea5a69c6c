"""Stored sign-ins: private, whole, and not burned by two processes at once."""

from __future__ import annotations

import json
import multiprocessing
import stat
import time
from typing import TYPE_CHECKING

import pytest

from knowledge_persistence.credentials import Credential, CredentialStore
from knowledge_persistence.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://127.0.0.1:54321"


def credential(access: str = "access-1", **values: object) -> Credential:
    given = {
        "user_id": "u-1",
        "refresh_token": "refresh-1",
        "access_token": access,
        "expires_at": 2_000_000_000,
    }
    return Credential(**(given | values))


def test_a_sign_in_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "home")
    assert store.load(URL) is None
    store.save(URL + "/", credential(email="a@example.org"))
    assert store.load(URL) == credential(email="a@example.org")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_deployments_are_kept_apart(tmp_path: Path) -> None:
    store = CredentialStore(tmp_path)
    store.save(URL, credential("one"))
    store.save("https://kp.example.org", credential("two"))
    assert store.delete(URL)
    assert not store.delete(URL)
    other = store.load("https://kp.example.org")
    assert other is not None
    assert other.access_token == "two"


def test_no_secret_shows_in_a_log() -> None:
    shown = repr(credential("very-secret", password="hunter2"))
    assert "very-secret" not in shown
    assert "refresh-1" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("content", ["", "{", "[]", '{"http://127.0.0.1:54321": {"user_id": "u"}}'])
def test_a_damaged_file_is_told_not_overwritten(tmp_path: Path, content: str) -> None:
    store = CredentialStore(tmp_path)
    store.path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"credentials\.json"):
        store.load(URL)
    assert store.path.read_text() == content


def test_a_failed_write_leaves_the_old_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CredentialStore(tmp_path)
    store.save(URL, credential())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        store.save(URL, credential("access-2"))
    assert store.load(URL) == credential()
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


def _rotate(home: Path, times: int) -> None:
    """Do what a renewal does: read, take a while, store what follows from what was read."""
    store = CredentialStore(home)
    for _ in range(times):
        with store.locked():
            stored = store.load(URL)
            assert stored is not None
            time.sleep(0.002)
            store.save(URL, credential(str(int(stored.access_token) + 1)))


def test_processes_renew_one_after_the_other(tmp_path: Path) -> None:
    CredentialStore(tmp_path).save(URL, credential("0"))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rotate, args=(tmp_path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert json.loads((tmp_path / "credentials.json").read_text())[URL]["access_token"] == "60"
