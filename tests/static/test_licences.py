"""What is shipped is listed, and may be shipped."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_sbom", ROOT / "scripts" / "generate_sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_sbom"] = module
    spec.loader.exec_module(module)
    return module


sbom = _load()
WRITTEN = (ROOT / sbom.REFERENCE / "sbom.json").read_text()


def listed() -> dict[tuple[str, str, str], str]:
    """Return the licence of each package in the checked-in list, by registry, name and version."""
    found: dict[tuple[str, str, str], str] = {}
    for component in json.loads(WRITTEN)["components"]:
        registry = component["purl"].partition(":")[2].partition("/")[0]
        [licence] = component["licenses"]
        stated = licence["expression"] if "expression" in licence else licence["license"]["id"]
        found[registry, component["name"], component["version"]] = stated
    return found


def has(package: object) -> bool:
    """Say whether this environment has just this version of a Python package."""
    assert isinstance(package, sbom.Package)
    try:
        return version(package.name) == package.version
    except PackageNotFoundError:
        return False


def test_what_is_pinned_is_listed() -> None:
    packages = sbom.shipped(ROOT)
    stated = listed()
    assert {(p.registry, p.name, p.version) for p in packages} == set(stated), "run scripts/generate-sbom"
    # Of another version than the pinned one nobody knows here what that one states.
    known = [p for p in packages if p.registry == "npm" or has(p)]
    assert len(known) > len(packages) / 2
    assert {p.name: p.licence for p in known if stated[p.registry, p.name, p.version] != p.licence} == {}
    as_listed = [dataclasses.replace(p, licence=stated[p.registry, p.name, p.version]) for p in packages]
    assert sbom.page(as_listed) == (ROOT / sbom.REFERENCE / "licences.md").read_text(), (
        "run scripts/generate-sbom"
    )
    assert sbom.bill(as_listed) == WRITTEN, "run scripts/generate-sbom"


def test_the_list_is_valid() -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(WRITTEN)
    assert problem is None, problem


def test_every_licence_was_looked_at() -> None:
    assert {name: licence for name, licence in listed().items() if not sbom.is_allowed(licence)} == {}


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("MIT AND GPL-3.0-only", False),
        ("", False),
        ("proprietary", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND Zlib", True),
    ],
)
def test_what_may_be_shipped(licence: str, allowed: bool) -> None:
    assert sbom.is_allowed(licence) is allowed


def test_a_package_of_a_forbidden_licence_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docker/requirements.txt", "pyproject.toml", str(sbom.LOCK)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    lock = json.loads((tmp_path / sbom.LOCK).read_text())
    lock["packages"]["node_modules/viral"] = {"version": "1.0.0", "license": "AGPL-3.0-only"}
    (tmp_path / sbom.LOCK).write_text(json.dumps(lock))
    monkeypatch.setattr(sbom, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate-sbom"])
    with pytest.raises(SystemExit, match=r"viral 1\.0\.0: AGPL-3\.0-only"):
        sbom.main()
    assert not (tmp_path / sbom.REFERENCE / "sbom.json").exists()
