"""Retrieval quality: our recall beside BM25 and vectors alone, on the same texts, in one run.

    python -m benchmarks.retrieval                                                  # the starter pack
    python -m benchmarks.retrieval --locomo FILE --commands FILE --queries FILE --json OUT

LoCoMo (Maharana et al., 2024): every turn is recorded as one item, in order, one session for each session of the
conversation, a workspace for each conversation. A question's gold answers are the turns that hold the evidence;
category 5 (questions without an answer) is left out. With --pooled everything is asked again with all conversations in
one workspace.

Commands (NL2Bash, Lin et al., 2018): JSON lines of {id, description, command} are recorded by record_command_run, JSON
lines of {query, command_id} asked of suggest_commands.

Starter pack: the lessons in examples/starter-pack.jsonl, asked the questions beside them.

What is compared with: BM25 (k1 = 0.9, b = 0.4; Snowball's English stems, stop words and question words removed); the
items' own vectors, all compared; reciprocal rank fusion of the two (k = 60).

recall@k is the share of a question's gold in the first k, averaged over questions; any@k and all@k are the shares of
questions of which some or all gold is there; NDCG@10 takes its ideal from all gold. Intervals are of 95 %, by bootstrap
over questions. Of two systems the difference is taken question by question.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import NewKnowledge, Settings, connect, make_embedder

from . import benchmark_stack, first_user
from .rankings import (
    BM25,
    CUTS,
    DEPTH,
    Figure,
    Outcome,
    Question,
    best_first,
    figure,
    fused,
    judge,
    without_question_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from numpy.typing import NDArray

    from knowledge_persistence import Embedder, KnowledgeClient
    from knowledge_persistence.embedded import StackInfo

EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples"
_WRITERS: Final = 3
_PATIENCE: Final = 120.0
_DATE = re.compile(r"(\d{1,2}) (\w+),? (\d{4})")


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a conversation."""

    id: str
    session: str
    speaker: str
    text: str
    date: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of LoCoMo; ids of turns and sessions begin with its name."""

    name: str
    turns: list[Turn]
    questions: list[Question]


@dataclass(frozen=True, slots=True)
class Command:
    """A command with what it does."""

    id: str
    description: str
    command: str


@dataclass(slots=True)
class Board:
    """What came of a run.

    Attributes:
        outcomes: by corpus and system, in the order of the questions.
        seconds: how long each part took.
    """

    outcomes: dict[str, dict[str, list[Outcome]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    seconds: dict[str, float] = field(default_factory=dict[str, float])


class Remembering:
    """An embedder that embeds a text once a run."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

    @property
    def name(self) -> str:
        """The model's registered name."""
        return self._embedder.name

    @property
    def dimensions(self) -> int | None:
        """Length of its vectors."""
        return self._embedder.dimensions

    def embed_documents(self, texts: Sequence[str], *, prefix: str = "") -> NDArray[np.float32]:
        """Embed texts; see `Embedder.embed_documents`."""
        new = [text for text in dict.fromkeys(texts) if prefix + text not in self._known]
        for text, vector in zip(new, self._embedder.embed_documents(new, prefix=prefix), strict=True):
            self._known[prefix + text] = vector
        return np.stack([self._known[prefix + text] for text in texts])

    def embed_query(self, text: str, *, prefix: str = "") -> NDArray[np.float32]:
        """Embed a question; see `Embedder.embed_query`."""
        return self._embedder.embed_query(text, prefix=prefix)


class Corpus:
    """Texts that were recorded, to be asked of every system.

    Args:
        run: what all corpora share.
        texts: by id, what BM25 reads.
        ids_of: by item, the ids of what it holds.
    """

    def __init__(self, run: Run, texts: dict[str, str], ids_of: dict[str, list[str]]) -> None:
        self._run = run
        self._ids = list(texts)
        self._bm25 = BM25(run.stems(list(texts.values())))
        self._ids_of = ids_of
        self._items, self._vectors = run.vectors(list(ids_of))

    def ask(
        self, questions: Sequence[Question], ours: Callable[[str], list[str]], name: str, label: str
    ) -> Iterable[tuple[Question, dict[str, list[str]]]]:
        """Ask questions of every system; yield each with the rankings by system.

        Args:
            questions: what to ask.
            ours: asks us: returns items, best first.
            name: what we are called in the tables.
            label: of the progress bar.
        """
        words = self._run.stems([without_question_words(question.text) for question in questions])
        asked = list(zip(questions, words, strict=True))
        for question, stems in track(asked, description=label, console=Console(stderr=True)):
            vector = self._run.embedder.embed_query(question.text)
            by_words = best_first(self._ids, self._bm25.scores(stems))
            by_meaning = self._named(best_first(self._items, self._vectors @ vector), question)
            yield (
                question,
                {
                    "BM25": by_words,
                    "vectors": by_meaning,
                    "RRF of both": fused([by_words, by_meaning]),
                    name: self._named(ours(question.text), question),
                },
            )

    def _named(self, items: Sequence[str], question: Question) -> list[str]:
        """Name what items hold; an item of several ids is the one that is asked for, if it is among them."""
        named: list[str] = []
        for item in items:
            ids = self._ids_of.get(item, [item])
            named.append(next((one for one in ids if one in question.gold), ids[0]))
        return named


class Run:
    """One run, on a stack of its own.

    Args:
        info: the stack.
        settings: its settings.
        user: who records and asks.
    """

    def __init__(self, info: StackInfo, settings: Settings, user: str) -> None:
        embedder = make_embedder(settings)
        if embedder is None:
            raise RuntimeError("no embedder")
        self.info = info
        self.embedder = Remembering(embedder)
        self.board = Board()
        self._settings = settings
        self._user = user

    def client(self, workspace: UUID | None = None) -> KnowledgeClient:
        """Make a client that works in a workspace."""
        return connect(
            self.info.database_url,
            user_id=self._user,
            settings=self._settings,
            embedder=self.embedder,
            workspace=workspace,
        )

    def workspace(self, name: str) -> UUID:
        """Make a workspace."""
        with self.client() as memory:
            return memory.create_workspace(name).workspace_id

    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        """Return each text's words, stemmed, stop words gone, repeated as often as they stand."""
        with psycopg.connect(self.info.admin_database_url) as admin:
            rows = admin.execute(
                "select (select array_agg(u.lexeme) from unnest(to_tsvector('english', t.text)) u, unnest(u.positions))"
                " from unnest(%s::text[]) with ordinality t (text, n) order by n",
                (list(texts),),
            ).fetchall()
        return [row[0] or [] for row in rows]

    def vectors(self, items: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
        """Return the items that have a vector, and the vectors, unit length, shape (items, dimensions)."""
        with psycopg.connect(self.info.admin_database_url, autocommit=True) as admin:
            admin.execute("set search_path = public, extensions")
            register_vector(admin)
            rows = admin.execute(
                "select id::text, content_embedding from public.knowledge_items"
                " where id = any (%s::uuid[]) and content_embedding is not null",
                (list(items),),
                binary=True,
            ).fetchall()
        vectors = np.stack([np.asarray(row[1].to_numpy(), dtype=np.float32) for row in rows])
        return [str(row[0]) for row in rows], vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def settle(self) -> None:
        """Wait until the stack's worker has embedded what was recorded, and let the planner look at it."""
        console = Console(stderr=True)
        with psycopg.connect(self.info.admin_database_url, autocommit=True) as admin:
            waiting, since = -1, time.monotonic()
            with console.status("waiting for vectors"):
                while True:
                    row = admin.execute(
                        "select count(*) from private.embedding_jobs where available_at < 'infinity'"
                    ).fetchone()
                    left = int(row[0]) if row else 0
                    if left == 0:
                        break
                    if left != waiting:
                        waiting, since = left, time.monotonic()
                    if time.monotonic() - since > _PATIENCE:
                        raise RuntimeError(f"{left} texts have waited {_PATIENCE:g} s for the worker")
                    time.sleep(0.2)
            admin.execute("vacuum analyze")

    def timed(self, part: str, act: Callable[[], None]) -> None:
        """Do a part of the run, and note how long it took."""
        started = time.perf_counter()
        act()
        self.board.seconds[part] = self.board.seconds.get(part, 0.0) + time.perf_counter() - started

    # LoCoMo

    def ask_conversations(self, conversations: Sequence[Conversation], *, pooled: bool) -> None:
        """Record conversations, each in a workspace of its own or all in one, and ask every system."""
        groups = [list(conversations)] if pooled else [[one] for one in conversations]
        suffix = ", pooled" if pooled else ""
        for group in groups:
            with self.client(self.workspace(f"{group[0].name}{suffix}")) as memory:
                turns_of: dict[str, list[str]] = defaultdict(list)
                for conversation in group:
                    record(memory, conversation, turns_of)
                self.settle()
                turns = [turn for conversation in group for turn in conversation.turns]
                session_of = {turn.id: turn.session for turn in turns}
                corpus = Corpus(self, {turn.id: f"{turn.speaker}: {turn.text}" for turn in turns}, turns_of)

                def ours(text: str, memory: KnowledgeClient = memory) -> list[str]:
                    return [str(found.knowledge_id) for found in memory.search(text, max_results=DEPTH)]

                asked = [question for conversation in group for question in conversation.questions]
                label = group[0].name if len(group) == 1 else f"{len(group)} conversations"
                for question, rankings in corpus.ask(asked, ours, "search_knowledge", label):
                    whole = Question(
                        question.text, tuple(session_of[turn] for turn in question.gold), question.kind
                    )
                    for system, ranked in rankings.items():
                        self.board.outcomes[f"turns{suffix}"][system].append(judge(question, ranked))
                        # A session is found where the first of its turns is.
                        sessions = [session_of.get(turn, turn) for turn in ranked]
                        self.board.outcomes[f"sessions{suffix}"][system].append(judge(whole, sessions))

    # Commands

    def ask_commands(self, commands: Sequence[Command], questions: Sequence[Question]) -> None:
        """Record commands, and ask every system for the ones that questions describe."""
        workspace = self.workspace("commands")
        ids_of: dict[str, list[str]] = defaultdict(list)

        def write(mine: Sequence[Command]) -> list[tuple[str, str]]:
            with self.client(workspace) as memory:
                return [
                    (
                        str(
                            memory.record_command_run(
                                command.command,
                                succeeded=True,
                                command_description=command.description,
                                allow_credentials=True,  # examples of commands hold examples of passwords
                            ).knowledge_id
                        ),
                        command.id,
                    )
                    for command in mine
                ]

        batches = [commands[start : start + 100] for start in range(0, len(commands), 100)]
        with ThreadPoolExecutor(_WRITERS) as pool:
            written = track(
                pool.map(write, batches),
                total=len(batches),
                description="recording commands",
                console=Console(stderr=True),
            )
            for recorded in written:
                for item, command in recorded:
                    ids_of[item].append(command)
        self.settle()
        corpus = Corpus(self, {one.id: f"{one.description}\n{one.command}" for one in commands}, ids_of)
        with self.client(workspace) as memory:

            def ours(text: str) -> list[str]:
                return [str(one.knowledge_id) for one in memory.suggest_commands(text, max_results=max(CUTS))]

            for question, rankings in corpus.ask(questions, ours, "suggest_commands", "commands"):
                for system, ranked in rankings.items():
                    self.board.outcomes["commands"][system].append(judge(question, ranked))

    # The starter pack

    def ask_starter_pack(self) -> None:
        """Record the starter pack, and ask its questions of every system; titles are the ids."""
        lessons = _lines(EXAMPLES / "starter-pack.jsonl")
        asked = _lines(EXAMPLES / "questions.jsonl")
        with self.client(self.workspace("starter pack")) as memory:
            recorded = memory.remember_many((NewKnowledge(**lesson) for lesson in lessons), embed=True)
            ids_of = {
                str(one.knowledge_id): [str(lesson["title"])]
                for one, lesson in zip(recorded, lessons, strict=True)
            }
            self.settle()
            corpus = Corpus(
                self,
                {lesson["title"]: f"{lesson['title']}\n{lesson['content']}" for lesson in lessons},
                ids_of,
            )
            questions = [Question(one["question"], tuple(one["expected"])) for one in asked]

            def ours(text: str) -> list[str]:
                return [str(found.knowledge_id) for found in memory.search(text, max_results=DEPTH)]

            for question, rankings in corpus.ask(questions, ours, "search_knowledge", "starter pack"):
                for system, ranked in rankings.items():
                    self.board.outcomes["starter pack"][system].append(judge(question, ranked))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def read_locomo(path: Path) -> list[Conversation]:
    """Read a file in LoCoMo's format."""
    conversations: list[Conversation] = []
    for sample in cast("list[dict[str, Any]]", json.loads(path.read_text("utf-8"))):
        turns: list[Turn] = []
        name = str(sample["sample_id"])
        talk = sample["conversation"]
        sessions = sorted((n for n in talk if re.fullmatch(r"session_\d+", n)), key=lambda n: int(n[8:]))
        for session in sessions:
            for turn in talk[session]:
                shown = f" [shares a picture: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                turns.append(
                    Turn(
                        f"{name}/{turn['dia_id']}",
                        f"{name}/{session}",
                        turn["speaker"],
                        turn["text"] + shown,
                        talk[f"{session}_date_time"],
                    )
                )
        known = {turn.id for turn in turns}
        questions: list[Question] = []
        for asked in sample["qa"]:
            # Some entries hold several ids, and some ids name nothing.
            named = [f"{name}/{part}" for entry in asked["evidence"] for part in re.split(r"[;,\s]+", entry)]
            gold = tuple(dict.fromkeys(part for part in named if part in known))
            if asked["category"] != 5 and gold:  # noqa: PLR2004 - LoCoMo's number
                questions.append(Question(str(asked["question"]), gold, f"category {asked['category']}"))
        conversations.append(Conversation(name, turns, questions))
    return conversations


def read_commands(commands: Path, queries: Path) -> tuple[list[Command], list[Question]]:
    """Read commands, and what is asked with the ids of the commands that answer it."""
    return (
        [Command(str(row["id"]), row["description"], row["command"]) for row in _lines(commands)],
        [Question(row["query"], (str(row["command_id"]),)) for row in _lines(queries)],
    )


def record(memory: KnowledgeClient, conversation: Conversation, turns_of: dict[str, list[str]]) -> None:
    """Record the turns of a conversation, session by session; add each item's turns to `turns_of`."""
    by_session: dict[str, list[Turn]] = defaultdict(list)
    for turn in conversation.turns:
        by_session[turn.session].append(turn)
    for name, turns in track(
        by_session.items(), description=f"recording {conversation.name}", console=Console(stderr=True)
    ):
        found = _DATE.search(turns[0].date)
        day = datetime.strptime(" ".join(found.groups()), "%d %B %Y").replace(tzinfo=UTC) if found else None
        with memory.session(name) as session:
            recorded = session.remember_many(
                [
                    NewKnowledge(
                        title=f"{turn.speaker}, {turn.date}",
                        content=f"{turn.speaker}: {turn.text}",
                        valid_from=day,
                    )
                    for turn in turns
                ],
                embed=True,
            )
        for turn, item in zip(turns, recorded, strict=True):
            turns_of[str(item.knowledge_id)].append(turn.id)


Figures = dict[str, dict[str, dict[str, Figure]]]


def figures(board: Board) -> Figures:
    """Return each metric by corpus and system."""
    return {
        corpus: {
            system: {
                name: figure([outcome.metrics[name] for outcome in outcomes]) for name in outcomes[0].metrics
            }
            for system, outcomes in systems.items()
        }
        for corpus, systems in board.outcomes.items()
    }


def differences(board: Board) -> Figures:
    """Return by how much we are better than each other system, by corpus, system and metric."""
    found: Figures = {}
    for corpus, systems in board.outcomes.items():
        *others, us = systems
        found[corpus] = {
            other: {
                name: figure(
                    [
                        ours.metrics[name] - theirs.metrics[name]
                        for ours, theirs in zip(systems[us], systems[other], strict=True)
                    ]
                )
                for name in systems[us][0].metrics
            }
            for other in others
        }
    return found


def show(board: Board) -> list[Table]:
    """Return the differences and, last, the figures as tables."""
    columns = ("recall@5", "recall@10", "any@10", "all@10", "NDCG@10")
    against = Table("corpus", "ours less", "recall@10", "95 %", "NDCG@10", "95 %")
    for corpus, systems in differences(board).items():
        for other, metrics in systems.items():
            cells: list[str] = []
            for one in (metrics["recall@10"], metrics["NDCG@10"]):
                cells += [f"{one.mean:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}"]
            against.add_row(corpus, other, *cells)
    table = Table("corpus", "questions", "system", "recall@5", "recall@10", "95 %", *columns[2:])
    for corpus, systems in figures(board).items():
        for system, metrics in systems.items():
            five, ten, *rest = (metrics[name] for name in columns)
            table.add_row(
                corpus,
                str(len(board.outcomes[corpus][system])),
                system,
                f"{five.mean:.3f}",
                f"{ten.mean:.3f}",
                f"{ten.low:.3f} to {ten.high:.3f}",
                *(f"{one.mean:.3f}" for one in rest),
            )
    return [against, table]


def write_json(board: Board, path: Path) -> None:
    """Write figures, differences, times and every question's outcome."""
    told = {
        "figures": {
            corpus: {
                system: {name: asdict(one) for name, one in metrics.items()}
                for system, metrics in systems.items()
            }
            for corpus, systems in figures(board).items()
        },
        "differences": {
            corpus: {
                system: {name: asdict(one) for name, one in metrics.items()}
                for system, metrics in systems.items()
            }
            for corpus, systems in differences(board).items()
        },
        "seconds": {part: round(seconds, 1) for part, seconds in board.seconds.items()},
        "questions": {
            corpus: {system: [asdict(outcome) for outcome in found] for system, found in systems.items()}
            for corpus, systems in board.outcomes.items()
        },
    }
    path.write_text(json.dumps(told) + "\n")


def write_questions(board: Board, directory: Path) -> None:
    """Write a file for each corpus, with a JSON line for each question: what every system answered, and how well."""
    directory.mkdir(parents=True, exist_ok=True)
    for corpus, systems in board.outcomes.items():
        name = re.sub(r"\W+", "-", corpus)
        with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for answers in zip(*systems.values(), strict=True):
                one = answers[0]
                line = {
                    "question": one.question,
                    "kind": one.kind,
                    "gold": one.gold,
                    "systems": {
                        system: {"top": answer.top, **answer.metrics}
                        for system, answer in zip(systems, answers, strict=True)
                    },
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def measure(arguments: argparse.Namespace) -> Board:
    """Start a stack, record and ask what the arguments name, and return the outcomes."""
    conversations = read_locomo(arguments.locomo) if arguments.locomo else []
    commands, questions = (
        read_commands(arguments.commands, arguments.queries) if arguments.commands else ([], [])
    )
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        info = stack.status().info
        if info is None:
            raise RuntimeError("the stack is up and has no description")
        run = Run(info, Settings(home=stack.home.path), first_user(info))
        if conversations:
            run.timed("conversations", lambda: run.ask_conversations(conversations, pooled=False))
        if conversations and arguments.pooled:
            run.timed("pooled", lambda: run.ask_conversations(conversations, pooled=True))
        if commands:
            run.timed("commands", lambda: run.ask_commands(commands, questions))
        if arguments.starter_pack or not (conversations or commands):
            run.timed("starter pack", run.ask_starter_pack)
        return run.board


def main() -> None:
    """Measure, write the figures where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--locomo", type=Path, help="conversations in LoCoMo's format")
    parser.add_argument(
        "--pooled", action="store_true", help="ask again with all conversations in one workspace"
    )
    parser.add_argument("--commands", type=Path, help="commands as JSON lines; wants --queries")
    parser.add_argument("--queries", type=Path, help="queries for the commands as JSON lines")
    parser.add_argument(
        "--starter-pack", action="store_true", help="the starter pack, beside what else is named"
    )
    parser.add_argument("--json", type=Path, help="write figures and outcomes here")
    parser.add_argument(
        "--questions", type=Path, help="write a file for each corpus here, a line for each question"
    )
    arguments = parser.parse_args()
    if (arguments.commands is None) != (arguments.queries is None):
        parser.error("--commands and --queries go together")
    if arguments.pooled and not arguments.locomo:
        parser.error("--pooled is for --locomo")
    board = measure(arguments)
    if arguments.json:
        write_json(board, arguments.json)
    if arguments.questions:
        write_questions(board, arguments.questions)
    for table in show(board):
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
