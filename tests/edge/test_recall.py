"""The function `recall`: every filter of the client, pages, explanations, and a reranker where there is one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from callers import Edge, bearer
from filter_scene import QUERY, set_scene
from knowledge_persistence import Settings, connect
from knowledge_persistence.models import to_json
from knowledge_persistence.rerankers import BoundedReranker
from knowledge_persistence.rerankers.api import RerankApi
from rerank_server import rerank_server
from teams import Team
from world import World


@pytest.fixture
def team(world: World) -> Team:
    return Team(world)


async def test_every_filter_of_the_client(edge: Edge, team: Team, world: World, tmp_path: Any) -> None:
    def client(user_id: UUID | None) -> Any:
        return connect(
            world.dsn("authenticator"),
            user_id=user_id,
            workspace=team.id,
            embedder=None,
            settings=Settings(home=tmp_path),
        )

    with client(team.owner.id) as owner, client(team.maintainer.id) as maintainer:
        scene = set_scene(owner, maintainer)
    headers = {**bearer(team.owner), "x-workspace-id": str(team.id)}
    for name, case in scene.cases.items():
        answer = await edge("recall", {"query": QUERY, **_plain(case.arguments)}, headers)
        assert answer.status_code == 200, (name, answer.text)
        assert {item["title"] for item in answer.json()} == case.titles, name


async def test_pages_and_explanations(edge: Edge, team: Team) -> None:
    for number in range(3):
        team.author.record(f"Item {number}", "shared words")
    headers = bearer(team.author)
    [first] = (await edge("recall", {"query": QUERY, "max_results": 1, "explain": True}, headers)).json()
    assert first["explanation"]["words"]["rank"] == 1
    body = {"query": QUERY, "after_cursor": first["cursor"]}
    rest = (await edge("recall", body, headers)).json()
    assert [item["explanation"] for item in rest] == [None, None]
    assert first["knowledge_id"] not in {item["knowledge_id"] for item in rest}
    assert (await edge("recall", {"query": QUERY, "after_cursor": "x"}, headers)).status_code == 400


async def test_a_deployments_reranker_orders_what_is_found(make_edge: Any, team: Team) -> None:
    team.author.record("gateway gateway restarts", "The gateway, and how it restarts. " * 5)
    best = team.author.record("restarts", "gateway restarts")
    headers = bearer(team.author)
    plain = await make_edge(embedder=None)
    refused = await plain("recall", {"query": "gateway restarts", "rerank": True}, headers)
    assert refused.status_code == 400
    assert "KP_RERANKER" in refused.text
    with rerank_server() as server:
        bounded = BoundedReranker(RerankApi(server.url, model="small"), seconds=30)
        edge = await make_edge(embedder=None, reranker=bounded)
        found = (await edge("recall", {"query": "gateway restarts"}, headers)).json()
        assert found[0]["knowledge_id"] == str(best)
        assert found[0]["rerank_score"] == 1
        asked = {"query": "gateway restarts", "rerank": False}
        assert {one["rerank_score"] for one in (await edge("recall", asked, headers)).json()} == {None}
        server.fault = "refuses"
        found = (await edge("recall", {"query": "gateway restarts"}, headers)).json()
        assert [one["rerank_score"] for one in found] == [None, None]


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: to_json(value) for name, value in arguments.items()}
