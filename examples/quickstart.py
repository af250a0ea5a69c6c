"""The quickstart's two acts: one process records lessons, another one, in a session of its own, asks for them.

    python examples/quickstart.py record
    python examples/quickstart.py ask

Both need a running stack (`kp up --detach`) and nothing else: `connect()` finds it, and signs in as its local user.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress

from knowledge_persistence import KnowledgeClient, KnowledgePersistenceError, NewKnowledge, connect

if TYPE_CHECKING:
    from uuid import UUID

HERE = Path(__file__).resolve().parent
OUT = Console(highlight=False)
# The worker embeds some hundred lessons in seconds; after a minute without one it isn't working.
PATIENCE = 60.0


def record() -> None:
    """Record the starter pack in one session, and wait until it can be found by its meaning, too."""
    lessons = [
        NewKnowledge(**json.loads(line)) for line in (HERE / "starter-pack.jsonl").read_text().splitlines()
    ]
    with connect() as memory, memory.session("starter-pack", project="starter-pack") as session:
        recorded = session.remember_many(lessons)
        session.summary = f"Recorded the starter pack: {len(lessons)} lessons."
        created = sum(item.outcome == "created" for item in recorded)
        OUT.print(f"{len(lessons)} lessons: {created} recorded, {len(lessons) - created} known already.")
        wait_for_embeddings(memory, [item.knowledge_id for item in recorded])


def wait_for_embeddings(memory: KnowledgeClient, items: list[UUID]) -> None:
    """Wait until the stack's worker has given each item its vector."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Embedding", total=len(items))
        waiting, last_change = items, time.monotonic()
        while waiting:
            still = [item for item in waiting if memory.get(item).embedding_model is None]
            if len(still) < len(waiting):
                last_change = time.monotonic()
            elif time.monotonic() - last_change > PATIENCE:
                sys.exit(f"{len(still)} lessons still have no vector; `kp logs worker` says why")
            waiting = still
            progress.update(task, completed=len(items) - len(waiting))
            if waiting:
                time.sleep(0.3)
    OUT.print("All of them have their vectors.")


def ask() -> None:
    """Ask some questions in a new session, and show what comes to mind, how sure, and why."""
    asked = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
    with connect() as memory, memory.session(project="quickstart") as session:
        for question in (entry["question"] for entry in asked if entry["quickstart"]):
            OUT.print(f"\n[bold]{question}[/bold]")
            for item in session.recall(question, max_results=2):
                OUT.print(Padding(f"[green]{item.score:.2f}[/green] {item.title}", (0, 0, 0, 2)))
                OUT.print(Padding(f"[dim]{item.relevance_reason}[/dim]", (0, 0, 0, 7)))
        session.summary = "Asked the quickstart's questions."


if __name__ == "__main__":
    acts = {"record": record, "ask": ask}
    if len(sys.argv) != 2 or sys.argv[1] not in acts:  # noqa: PLR2004
        sys.exit(f"usage: {sys.argv[0]} record|ask")
    try:
        acts[sys.argv[1]]()
    except KnowledgePersistenceError as error:
        sys.exit(f"error: {error}")
