"""Settings: which source counts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowledge_persistence.errors import ConfigurationError
from knowledge_persistence.settings import Settings


def test_the_environment_counts_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KP_URL=http://from-file\nKP_PROJECT=from-file\nKP_SESSION=\n")
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("KP_PROJECT", "from-environment")
    settings = Settings.load()
    assert (settings.url, settings.project, settings.session) == (
        "http://from-file",
        "from-environment",
        None,
    )


def test_every_setting_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "KP_HOME": str(tmp_path / "home"),
        "KP_URL": "http://u",
        "KP_API_KEY": "k",
        "KP_ACCESS_TOKEN": "t",
        "KP_USER_ID": "id",
        "KP_JWT_SECRET": "j",
        "KP_DATABASE_URL": "postgresql://d",
        "KP_WORKSPACE": "w",
        "KP_PROJECT": "p",
        "KP_SESSION": "s",
        "KP_EMBEDDER": "openai",
        "KP_EMBEDDING_MODEL": "m",
        "KP_EMBEDDING_MODEL_PATH": "/m.onnx",
        "KP_EMBEDDING_DIMENSIONS": "256",
        "KP_EDGE_REQUESTS_PER_MINUTE": "30",
        "OPENAI_API_KEY": "o",
        "OPENAI_BASE_URL": "http://o",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == Settings(
        home=tmp_path / "home",
        url="http://u",
        api_key="k",
        access_token="t",
        user_id="id",
        jwt_secret="j",
        database_url="postgresql://d",
        workspace="w",
        project="p",
        session="s",
        embedder="openai",
        embedding_model="m",
        embedding_model_path=Path("/m.onnx"),
        embedding_dimensions=256,
        edge_requests_per_minute=30,
        openai_api_key="o",
        openai_base_url="http://o",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("KP_EMBEDDER", "cloud"), ("KP_EMBEDDING_DIMENSIONS", "0"), ("KP_EMBEDDING_DIMENSIONS", "many")],
)
def test_a_value_that_means_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.load()
