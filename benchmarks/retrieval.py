"""Retrieval quality: our recall beside BM25 and pure vectors, on the same texts, in one run.

    python -m benchmarks.retrieval --locomo FILE --json OUT

LoCoMo (Maharana et al., 2024): every turn is recorded as one item, in order, one session for each session of the
conversation, a workspace for each conversation. A question's gold answers are the turns that hold the evidence;
category 5 (questions without an answer) is left out. Figures are the share of a question's gold found in the top k,
averaged over questions, with 95 % intervals by bootstrap over questions.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from knowledge_persistence import NewKnowledge, Settings, connect, make_embedder

from . import benchmark_stack, first_user

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@dataclass(slots=True)
class Scores:
    """Each question's score, system by system: the share of its gold in the top ten, turns and sessions."""

    turns: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sessions: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


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
    return turns_of


def best_first(ids: Sequence[str], scores: NDArray[np.float64]) -> list[str]:
    """Return the ids by falling score."""
    return [ids[int(number)] for number in np.argsort(-scores, kind="stable")]


def share_found(ranked: Sequence[str], gold: Sequence[str], k: int = TOP) -> float:
    """Return the share of the gold among the first k."""
    return len(set(ranked[:k]) & set(gold)) / len(set(gold))


def add(
    scores: Scores, system: str, ranked: Sequence[str], question: Question, session_of: dict[str, str]
) -> None:
    """Score one ranking of turns, and the ranking of sessions by their best turn that follows from it."""
    scores.turns[system].append(share_found(ranked, question.gold))
    sessions = list(dict.fromkeys(session_of[turn] for turn in ranked))
    scores.sessions[system].append(share_found(sessions, [session_of[turn] for turn in question.gold]))


def run_conversation(
    info: StackInfo, memory: KnowledgeClient, embedder: Embedder, conversation: Conversation, scores: Scores
) -> None:
    """Record a conversation and ask its questions of every system."""
    turns_of = record(memory, conversation)
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
        add(scores, "BM25", best_first(ids, bm25.scores(words)), question, session_of)
        similarity = vectors @ np.asarray(embedder.embed_query(question.text), dtype=np.float64)
        add(scores, "vectors", best_first(ids, similarity), question, session_of)
        found = memory.search(question.text, max_results=100)
        ranked: list[str] = [turn for item in found for turn in turns_of[str(item.knowledge_id)]]
        add(scores, "search_knowledge", ranked, question, session_of)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    generator = np.random.default_rng(1)
    sample = np.asarray(values)
    means = sample[generator.integers(0, len(sample), (2000, len(sample)))].mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def main() -> None:
    """Measure, write the figures as JSON where asked, and print the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--locomo", type=Path, required=True, help="conversations in LoCoMo's format")
    parser.add_argument("--json", type=Path, help="write the figures here, question by question")
    arguments = parser.parse_args()
    conversations = read_locomo(arguments.locomo)
    scores = Scores()
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
        with connect(info.database_url, user_id=user, settings=settings) as memory:
            for conversation in conversations:
                workspace = memory.create_workspace(conversation.name)
                with connect(
                    info.database_url, user_id=user, settings=settings, workspace=workspace.workspace_id
                ) as inside:
                    run_conversation(info, inside, embedder, conversation, scores)
    table = Table("LoCoMo", "turns R@10", "95 %", "sessions R@10", "95 %")
    for system in scores.turns:
        row: list[str] = []
        for values in (scores.turns[system], scores.sessions[system]):
            low, high = interval(values)
            row += [f"{np.mean(values):.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(system, *row)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(scores)) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
