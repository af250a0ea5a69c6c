"""`kp recall` as a person types it: codes, symbols, paths, flags, slips, and other languages, without an embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Person, Printed

#: What is remembered; every item has another one that says its words.
NOTES = (
    "The build stops with E0308 when the types of the two branches differ.",
    "The build stops with E0309 when a lifetime is too short.",
    "pool_timeout is read from /etc/pgbouncer/pgbouncer.ini at start only.",
    "A pool and its timeout: etc, start, ini of the pgbouncer at start.",
    "Call Session::flush_all before the process ends.",
    "Flush all of a session before the session ends; flush all.",
    "npm ci --ignore-scripts keeps packages from running code.",
    "Scripts: ignore npm scripts that packages ignore.",
    "Kubernetes drains a node before it is upgraded.",
    "数据库连接池耗尽时。请增加最大连接数。",
    "Nach dem Austausch der Zertifikate muss der Dienst neu gestartet werden.",
    "يجب إعادة تشغيل الخوادم بعد تغيير كلمات المرور.",
)


def test_what_people_type_finds_its_item_first(
    sign_up: Callable[..., Person], command: Callable[..., Printed]
) -> None:
    me = sign_up("typist")
    for note in NOTES:
        assert command(me, "remember", note).code == 0
    for query, start in (
        ("E0308", "The build stops with E0308"),
        ("what is /etc/pgbouncer/pgbouncer.ini for", "pool_timeout"),
        ("pgbouncer.ini", "pool_timeout"),
        ("Session::flush_all", "Call Session::flush_all"),
        ("npm ci --ignore-scripts", "npm ci --ignore-scripts"),
        ("连接池", "数据库"),
        ("Zertifikat austauschen", "Nach dem Austausch"),
        ("تشغيل الخادم", "يجب"),
    ):
        found = command(me, "recall", query, "--json").json
        assert found[0]["content"].startswith(start), query
    [first, *_] = command(me, "recall", "kubernetse upgarde", "--json").json
    assert first["content"].startswith("Kubernetes")
    assert 'near match: "kubernetes" for "kubernetse"' in first["relevance_reason"].lower()
    assert "near match" in command(me, "recall", "kubernetse").out


@pytest.mark.parametrize("arguments", [("--json", "--", "--ignore-scripts"), ("--json", "--ignore-scripts")])
def test_a_flag_can_be_looked_up_by_itself(
    sign_up: Callable[..., Person], command: Callable[..., Printed], arguments: tuple[str, ...]
) -> None:
    me = sign_up("typist")
    for note in NOTES[6:8]:
        command(me, "remember", note)
    assert command(me, "recall", *arguments).json[0]["content"] == NOTES[6]


def test_a_mistyped_option_is_still_an_error(
    sign_up: Callable[..., Person], command: Callable[..., Printed]
) -> None:
    printed = command(sign_up("typist"), "recall", "something", "--ful")
    assert (printed.code, printed.out) == (2, "")
    assert "--ful" in printed.err


def test_an_item_is_remembered_in_its_language(
    sign_up: Callable[..., Person], command: Callable[..., Printed]
) -> None:
    me = sign_up("typist")
    refused = command(me, "remember", "Verbindungen", "--language", "klingon")
    assert refused.code == 1
    assert "klingon" in refused.err
    command(me, "remember", "Verbindungen", "--language", "german")
    assert command(me, "recall", "Verbindung", "--json").json[0]["content"] == "Verbindungen"


def test_arms_are_explained_in_a_table(
    sign_up: Callable[..., Person], command: Callable[..., Printed]
) -> None:
    me = sign_up("typist")
    command(me, "remember", "The gateway wants port 443.", "--trigger", "ECONNREFUSED")
    command(me, "remember", "The gateway is restarted by night.")
    printed = command(me, "recall", "gateway says ECONNREFUSED", "--explain")
    head, *rows = [line for line in printed.out.splitlines() if "┃" in line or "│" in line]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == [
        *("", "title", "meaning", "words", "triggers", "beside", "factor", "score")
    ]
    first, second = ([cell.strip() for cell in row.strip("│").split("│")] for row in rows)
    assert first[:5] == ["1", "The gateway wants port 443", "", "1.00 #1", "0.50 #1"]
    assert second[:2] == ["2", "The gateway is restarted by night"]
    assert second[3].endswith("#2")
    assert second[4] == ""
    assert "Time: meaning" in printed.out


def test_results_are_packed_into_a_number_of_tokens(
    sign_up: Callable[..., Person], command: Callable[..., Printed]
) -> None:
    me = sign_up("typist")
    long = "The gateway, the gateway: " + "its port is 443 and its log is long. " * 20
    command(me, "remember", long, "--title", "gateway gateway")
    command(me, "remember", "The gateway is slow.", "--title", "slow")
    everything = command(me, "recall", "gateway", "--json").json
    assert {item["title"] for item in everything} == {"gateway gateway", "slow"}
    packed = command(me, "recall", "gateway", "--max-tokens", "20", "--json").json
    assert [item["title"] for item in packed] == ["slow"], "what doesn't fit makes room for what does"
    assert command(me, "recall", "gateway", "--max-tokens", "2", "--json").json == []
    assert command(me, "recall", "gateway", "--max-tokens", "0").code == 2
