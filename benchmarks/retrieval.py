"""Retrieval quality: our recall beside BM25 and pure vectors, on the same texts, in one run.

    python -m benchmarks.retrieval --locomo FILE --commands FILE --queries FILE --json OUT

LoCoMo (Maharana et al., 2024): every turn is recorded as one item, in order, one session for each session of the
conversation, a workspace for each conversation. A question's gold answers are the turns that hold the evidence;
category 5 (questions without an answer) is left out. With --pooled all conversations share one workspace.

Commands (NL2Bash, Lin et al., 2018): JSON lines of {id, description, command} are recorded by record_command_run, JSON
lines of {query, command_id} asked of suggest_commands.

Recall@10 is the share of a question's gold in the first ten, averaged over questions, with 95 % intervals by bootstrap
over questions; any and all are the shares of questions of which some or all gold is there; NDCG is against all gold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import NewKnowledge, Settings, connect, make_embedder
from knowledge_persistence.worker import Worker

from . import benchmark_stack, first_user

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from numpy.typing import NDArray

    from knowledge_persistence import Embedder, KnowledgeClient
    from knowledge_persistence.embedded import StackInfo

TOP: Final = 10
_DATE = re.compile(r"(\d{1,2}) (\w+),? (\d{4})")
# Words that ask rather than describe.
QUESTION_WORDS: Final = frozenset(
    {
        *("what", "when", "where", "which", "who", "whom", "whose", "why", "how"),
        *("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "would", "could"),
    }
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a conversation."""

    id: str
    session: str
    speaker: str
    text: str
    date: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the ids of the turns that answer it."""

    text: str
    gold: tuple[str, ...]
    category: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of LoCoMo."""

    name: str
    turns: list[Turn]
    questions: list[Question]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system made of one question: the metrics at ten, and what it answered."""

    question: str
    fraction: float
    any: float
    all: float
    ndcg: float
    gold: tuple[str, ...]
    top: tuple[str, ...]


#: Outcomes by corpus and system.
Board = dict[str, dict[str, list[Outcome]]]


@dataclass(frozen=True, slots=True)
class Command:
    """A command with what it does."""

    id: str
    description: str
    command: str


def read_locomo(path: Path) -> list[Conversation]:
    """Read a file in LoCoMo's format."""
    conversations: list[Conversation] = []
    for sample in cast("list[dict[str, Any]]", json.loads(path.read_text())):
        turns: list[Turn] = []
        talk = sample["conversation"]
        names = sorted((n for n in talk if re.fullmatch(r"session_\d+", n)), key=lambda n: int(n[8:]))
        for name in names:
            for turn in talk[name]:
                shown = f" [shares a picture: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                turns.append(
                    Turn(
                        turn["dia_id"], name, turn["speaker"], turn["text"] + shown, talk[f"{name}_date_time"]
                    )
                )
        known = {turn.id for turn in turns}
        questions: list[Question] = []
        for asked in sample["qa"]:
            named = [part for entry in asked["evidence"] for part in re.split(r"[;,\s]+", entry)]
            gold = tuple(dict.fromkeys(part for part in named if part in known))
            if asked["category"] != 5 and gold:  # noqa: PLR2004 - LoCoMo's number
                questions.append(Question(str(asked["question"]), gold, asked["category"]))
        conversations.append(Conversation(sample["sample_id"], turns, questions))
    return conversations


class BM25:
    """BM25 as in the literature (k1 = 0.9, b = 0.4), over words stemmed by PostgreSQL's Snowball stemmer."""

    def __init__(self, documents: Sequence[list[str]]) -> None:
        self._lengths = np.array([len(document) for document in documents])
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for word, count in Counter(document).items():
                self._postings[word].append((number, count))

    def scores(self, query: list[str]) -> NDArray[np.float64]:
        """Return the score of each document, shape (documents,)."""
        k1, b = 0.9, 0.4
        total = len(self._lengths)
        scores = np.zeros(total)
        norm = k1 * (1 - b + b * self._lengths / self._lengths.mean())
        for word in set(query):
            postings = self._postings.get(word, [])
            idf = math.log(1 + (total - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, count in postings:
                scores[number] += idf * count * (k1 + 1) / (count + norm[number])
        return scores


def stem_all(info: StackInfo, texts: Sequence[str]) -> list[list[str]]:
    """Return each text's words, stemmed, stop words gone, repeated as often as they stand."""
    with psycopg.connect(info.admin_database_url) as admin:
        rows = admin.execute(
            "select (select array_agg(u.lexeme) from unnest(to_tsvector('english', t.text)) u, unnest(u.positions))"
            " from unnest(%s::text[]) with ordinality t (text, n) order by n",
            (list(texts),),
        ).fetchall()
    return [row[0] or [] for row in rows]


def record(memory: KnowledgeClient, conversation: Conversation) -> dict[str, list[str]]:
    """Record the turns; return for each item's id the ids of its turns."""
    turns_of: dict[str, list[str]] = defaultdict(list)
    by_session: dict[str, list[Turn]] = defaultdict(list)
    for turn in conversation.turns:
        by_session[turn.session].append(turn)
    for name, turns in by_session.items():
        found = _DATE.search(turns[0].date)
        day = datetime.strptime(" ".join(found.groups()), "%d %B %Y").replace(tzinfo=UTC) if found else None
        with memory.session(f"{conversation.name} {name}") as session:
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
    return turns_of


def best_first(ids: Sequence[str], scores: NDArray[np.float64]) -> list[str]:
    """Return the ids by falling score."""
    return [ids[int(number)] for number in np.argsort(-scores, kind="stable")]


def judge(question: str, ranked: Sequence[str], gold: Sequence[str], k: int = TOP) -> Outcome:
    """Compare a ranking without repeats with the gold."""
    wanted = tuple(dict.fromkeys(gold))
    top = tuple(ranked[:k])
    hits = [place for place, found in enumerate(top) if found in wanted]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    return Outcome(
        question,
        fraction=len(hits) / len(wanted),
        any=float(bool(hits)),
        all=float(len(hits) == len(wanted)),
        ndcg=sum(1 / math.log2(place + 2) for place in hits) / ideal,
        gold=wanted,
        top=top,
    )


def add(
    board: Board, system: str, ranked: Sequence[str], question: Question, session_of: dict[str, str]
) -> None:
    """Judge one ranking of turns, and the ranking of sessions by their best turn that follows from it."""
    board["turns"][system].append(judge(question.text, ranked, question.gold))
    sessions = list(dict.fromkeys(session_of.get(turn, turn) for turn in ranked))
    gold = [session_of[turn] for turn in question.gold]
    board["sessions"][system].append(judge(question.text, sessions, gold))


def ask_conversation(
    info: StackInfo,
    memory: KnowledgeClient,
    embedder: Embedder,
    conversation: Conversation,
    turns_of: dict[str, list[str]],
    board: Board,
) -> None:
    """Ask a recorded conversation's questions of every system."""
    session_of = {turn.id: turn.session for turn in conversation.turns}
    ids = [turn.id for turn in conversation.turns]
    texts = [f"{turn.speaker}: {turn.text}" for turn in conversation.turns]
    bm25 = BM25(stem_all(info, texts))
    asked = [
        " ".join(word for word in re.findall(r"\w+", q.text) if word.lower() not in QUESTION_WORDS)
        for q in conversation.questions
    ]
    stemmed = stem_all(info, asked)
    vectors = np.asarray(embedder.embed_documents(texts), dtype=np.float64)
    for question, words in track(
        list(zip(conversation.questions, stemmed, strict=True)),
        description=conversation.name,
        console=Console(stderr=True),
    ):
        add(board, "BM25", best_first(ids, bm25.scores(words)), question, session_of)
        similarity = vectors @ np.asarray(embedder.embed_query(question.text), dtype=np.float64)
        add(board, "vectors", best_first(ids, similarity), question, session_of)
        found = memory.search(question.text, max_results=100)
        # In a pooled workspace another conversation's turns take their places, too.
        ranked: list[str] = []
        for item in found:
            ranked += turns_of.get(str(item.knowledge_id), [str(item.knowledge_id)])
        add(board, "search_knowledge", ranked, question, session_of)


def read_commands(commands: Path, queries: Path) -> tuple[list[Command], list[tuple[str, str]]]:
    """Read commands, and the queries with the ids of the commands they are for."""
    rows = [json.loads(line) for line in commands.read_text().splitlines()]
    asked = [json.loads(line) for line in queries.read_text().splitlines()]
    return (
        [Command(str(row["id"]), row["description"], row["command"]) for row in rows],
        [(row["query"], str(row["command_id"])) for row in asked],
    )


def run_commands(
    info: StackInfo,
    memory: KnowledgeClient,
    settings: Settings,
    embedder: Embedder,
    commands: list[Command],
    queries: list[tuple[str, str]],
    board: Board,
) -> None:
    """Record the commands, wait for their vectors, and ask every system for each query's."""
    ids_of: dict[str, list[str]] = defaultdict(list)
    for command in track(commands, description="commands", console=Console(stderr=True)):
        recorded = memory.record_command_run(
            command.command,
            succeeded=True,
            command_description=command.description,
            allow_credentials=True,  # examples of commands hold examples of passwords
        )
        ids_of[str(recorded.knowledge_id)].append(command.id)
    asyncio.run(Worker.from_settings(settings, database_url=info.database_url).run_once())
    with psycopg.connect(info.admin_database_url, autocommit=True) as admin:
        admin.execute("vacuum analyze")
    ids = [command.id for command in commands]
    texts = [f"{command.description}\n{command.command}" for command in commands]
    bm25 = BM25(stem_all(info, texts))
    vectors = np.asarray(embedder.embed_documents(texts), dtype=np.float64)
    stemmed = stem_all(info, [query for query, _ in queries])
    for (query, wanted), words in track(
        list(zip(queries, stemmed, strict=True)), description="queries", console=Console(stderr=True)
    ):
        systems = board["commands"]
        systems["BM25"].append(judge(query, best_first(ids, bm25.scores(words)), [wanted]))
        similarity = vectors @ np.asarray(embedder.embed_query(query), dtype=np.float64)
        systems["vectors"].append(judge(query, best_first(ids, similarity), [wanted]))
        found = memory.suggest_commands(query, max_results=TOP)
        # A command that was recorded under several ids is each of them.
        merged = [ids_of[str(item.knowledge_id)] for item in found]
        ours = [wanted if wanted in known else known[0] for known in merged]
        systems["suggest_commands"].append(judge(query, ours, [wanted]))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    generator = np.random.default_rng(1)
    sample = np.asarray(values)
    means = sample[generator.integers(0, len(sample), (2000, len(sample)))].mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def show(board: Board) -> Table:
    """Return the figures as a table."""
    table = Table("corpus", "system", "R@10", "95 %", "any@10", "all@10", "NDCG@10")
    for corpus, systems in board.items():
        for system, outcomes in systems.items():
            low, high = interval([outcome.fraction for outcome in outcomes])
            means = [
                np.mean([getattr(outcome, name) for outcome in outcomes])
                for name in ("fraction", "any", "all", "ndcg")
            ]
            cells = [f"{mean:.3f}" for mean in means]
            table.add_row(corpus, system, cells[0], f"{low:.3f} to {high:.3f}", *cells[1:])
    return table


def measure(arguments: argparse.Namespace) -> Board:
    """Start a stack, record and ask what the arguments name, and return the outcomes."""
    board: Board = defaultdict(lambda: defaultdict(list))
    with (
        tempfile.TemporaryDirectory(prefix="kp-bench-") as directory,
        benchmark_stack(Path(directory)) as stack,
    ):
        info = stack.status().info
        if info is None:
            raise RuntimeError("the stack is up and has no description")
        settings = Settings(home=stack.home.path)
        embedder = make_embedder(settings)
        if embedder is None:
            raise RuntimeError("no embedder")
        user = first_user(info)

        def inside(workspace: UUID) -> KnowledgeClient:
            return connect(info.database_url, user_id=user, settings=settings, workspace=workspace)

        with connect(info.database_url, user_id=user, settings=settings) as memory:
            if arguments.locomo:
                conversations = read_locomo(arguments.locomo)
                pool = memory.create_workspace("all conversations").workspace_id
                recorded = [
                    (
                        conversation,
                        pool if arguments.pooled else memory.create_workspace(conversation.name).workspace_id,
                    )
                    for conversation in conversations
                ]
                turns_of: list[dict[str, list[str]]] = []
                for conversation, workspace in recorded:
                    with inside(workspace) as client:
                        turns_of.append(record(client, conversation))
                for (conversation, workspace), turns in zip(recorded, turns_of, strict=True):
                    with inside(workspace) as client:
                        ask_conversation(info, client, embedder, conversation, turns, board)
            if arguments.commands:
                commands, queries = read_commands(arguments.commands, arguments.queries)
                with inside(memory.create_workspace("commands").workspace_id) as client:
                    run_commands(info, client, settings, embedder, commands, queries, board)
    return board


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--locomo", type=Path, help="conversations in LoCoMo's format")
    parser.add_argument("--pooled", action="store_true", help="one workspace for all conversations")
    parser.add_argument("--commands", type=Path, help="commands as JSON lines; wants --queries")
    parser.add_argument("--queries", type=Path, help="queries for the commands as JSON lines")
    parser.add_argument("--json", type=Path, help="write the outcomes here, question by question")
    arguments = parser.parse_args()
    if (arguments.commands is None) != (arguments.queries is None):
        parser.error("--commands and --queries go together")
    if arguments.locomo is None and arguments.commands is None:
        parser.error("nothing to measure: give --locomo, or --commands and --queries")
    board = measure(arguments)
    if arguments.json:
        outcomes = {
            corpus: {system: [asdict(outcome) for outcome in found] for system, found in systems.items()}
            for corpus, systems in board.items()
        }
        arguments.json.write_text(json.dumps(outcomes) + "\n")
    Console().print(show(board))


if __name__ == "__main__":
    main()
