"""The load that `benchmarks/load.py` puts on a stack: a little of it, and what it measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import DOORS, measure, sign_up

if TYPE_CHECKING:
    from stacks import RunningStack


def test_nothing_fails_under_a_little_load(shared_stack: RunningStack) -> None:
    people, workspace = sign_up(shared_stack.stack)
    for door in DOORS:
        run = measure(shared_stack.stack, door, people, workspace, clients=4, seconds=2)
        assert run.errors == {}
        assert sum(run.calls.values()) > 0
        assert all(p50 <= p95 <= p99 for p50, p95, p99 in run.milliseconds.values())
        assert set(run.memory) == {"postgres", "front", "realtime", "edge", "worker"}
        assert all(first > 0 and last > 0 for first, last, _ in run.memory.values())
