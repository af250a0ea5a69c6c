"""`kp embeddings`: what an operator sees and does about vectors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest

from knowledge_persistence.cli import main
from world import vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from databases import Database
    from world import Persona, World

OLD, NEW = "all-MiniLM-L6-v2", "tiny-4"


class Printed(NamedTuple):
    code: int
    out: str
    err: str


Kp: TypeAlias = "Callable[..., Printed]"


@pytest.fixture
def kp(database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Kp:
    """Run `kp embeddings` as the operator of the database, in this process."""

    def run(*arguments: str, role: str = "postgres") -> Printed:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setenv("KP_EMBEDDER", "none")
            patch.setattr(sys, "argv", ["kp", "embeddings", *arguments, "--database-url", database.dsn(role)])
            try:
                code = main()
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 0
        said = capsys.readouterr()
        return Printed(code, said.out, said.err)

    return run


@pytest.fixture
def ana(world: World) -> Persona:
    return world.sign_up("ana")


def answer(world: World, *models: str, error: str | None = None) -> None:
    """Answer what waits for these models: with a vector, or with an error."""
    service = world.service()
    while jobs := service.rpc("claim_embedding_jobs", embedding_models=list(models)):
        given: list[dict[str, Any]] = [
            {name: str(job[name]) for name in ("knowledge_id", "embedding_model", "content_hash")}
            for job in jobs
        ]
        for one in given:
            if error is None:
                one["embedding"] = vector([1.0] * (4 if one["embedding_model"] == NEW else 384))
            else:
                one["error"] = error
        service.rpc("store_embeddings", embeddings=given)


def test_users_do_none_of_it(world: World, ana: Persona, kp: Kp) -> None:
    ana.record("waits")
    world.service().rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    for arguments in (["status"], ["failed"], ["retry"], ["switch", "--abort"], ["switch", NEW]):
        # The login of the Data API has no role until a request gives it one.
        refused = kp(*arguments, role="authenticator")
        assert refused.code in {1, 4}, arguments
        assert (refused.out, "Traceback" in refused.err) == ("", False)
    assert world.service().rpc("embedding_switch_status")[0]["state"] == "filling"


def test_status_says_what_waits_and_how_far_a_switch_is(world: World, ana: Persona, kp: Kp) -> None:
    assert kp("status").out.splitlines()[0].split() == ["model", "pending", "failed", "switching"]
    ana.record("first")
    ana.record("second")
    told = json.loads(kp("status", "--json").out)
    assert (told["serving"], told["models"][OLD], told["switch"]) == (
        OLD,
        {"pending": 2, "failed": 0, "switching": 0},
        None,
    )
    world.service().rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    answer(world, OLD)
    told = json.loads(kp("status", "--json").out)
    assert told["models"][NEW] == {"pending": 0, "failed": 0, "switching": 2}
    assert (told["switch"]["state"], told["switch"]["items"], told["switch"]["embedded"]) == ("filling", 2, 0)
    said = kp("status").out
    assert f"{OLD}" in next(line for line in said.splitlines() if "serves" in line)
    assert f"Switch from {OLD} to {NEW}: filling, 0 of 2 embedded" in said.replace("\n", " ")


def test_what_failed_is_listed_with_its_reason_and_tried_again(world: World, ana: Persona, kp: Kp) -> None:
    assert (kp("failed").out, kp("failed").err) == ("", "None failed.\n")
    item, other = ana.record("\x1b[31ma bad text"), ana.record("another")
    for _ in range(8):
        answer(world, OLD, error="the provider\x07 said no")
        world.superuser(
            "update private.embedding_jobs set available_at = now() where available_at < 'infinity'"
        )
    listed = kp("failed")
    assert listed.err == "2 failed.\n"
    assert f"{item}  [31ma bad text" in listed.out, "what a terminal would obey is taken out"
    assert f"{OLD}, 8 attempts, set aside: the provider said no" in listed.out
    assert {row["knowledge_id"] for row in json.loads(kp("failed", "--json").out)} == {str(item), str(other)}
    assert kp("retry", str(world.sign_up("ben").id)).code == 1, "nothing of that id was set aside"
    assert json.loads(kp("retry", str(item), "--json").out) == {"retried": 1}
    assert kp("retry").err == "1 are tried again.\n"
    answer(world, OLD)
    assert kp("failed").err == "None failed.\n"


def test_a_switch_is_given_up_before_its_swap(world: World, ana: Persona, kp: Kp) -> None:
    nothing = kp("switch", "--abort")
    assert nothing.code == 1
    assert kp("switch").code == 2
    ana.record("first")
    answer(world, OLD)
    service = world.service()
    service.rpc("begin_embedding_switch", embedding_model=NEW, dimensions=4)
    answer(world, NEW)
    given_up = kp("switch", "--abort")
    assert (given_up.code, given_up.out) == (0, "")
    assert f"{OLD} goes on serving" in given_up.err.replace("\n", " ")
    assert service.rpc("embedding_switch_status") == []
    assert world.superuser("select 1 from private.next_embeddings") == []
    assert {
        row["embedding_model"] for row in world.superuser("select embedding_model from private.item_vectors")
    } == {OLD}
