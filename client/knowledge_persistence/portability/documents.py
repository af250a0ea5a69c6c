"""Documents: files split into items that are found by what they say, and kept up with the files.

A document is split at its headings; what is longer than the embedder reads is split further, between blocks, with
some of the text before repeated. Each part is an item that knows its source. Taken in again, what says the same is
left alone (and keeps its vector), what changed is edited in place, and what vanished is deprecated.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, cast

import frontmatter
import yaml
from bs4 import BeautifulSoup
from charset_normalizer import from_bytes
from markdown_it import MarkdownIt
from markdownify import MarkdownConverter

from knowledge_persistence.embedders.local import MAX_TOKENS
from knowledge_persistence.embedders.wordpiece import WordPiece
from knowledge_persistence.errors import APIError, CredentialError
from knowledge_persistence.models import NewKnowledge

from .report import Report, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from knowledge_persistence import KnowledgeClient
    from knowledge_persistence.models import JSON, JSONObject

    from .report import Progress

MARKDOWN: Final = frozenset({".md", ".markdown", ".mdown", ".mkd"})
HTML: Final = frozenset({".html", ".htm", ".xhtml"})
TEXT: Final = frozenset({".txt", ".text", ".rst", ".adoc", ".org", ""})
#: A file larger than this is a log or a data set rather than a document.
MAX_BYTES: Final = 5_000_000
#: Tokens of text in a part: what the default embedder reads, with room for the title before it.
PART_TOKENS: Final = MAX_TOKENS - 46
OVERLAP_TOKENS: Final = 30
_BATCH: Final = 100
_SKIPPED_DIRECTORIES: Final = frozenset({"node_modules", "__pycache__", "venv", "dist", "build", "target"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a document.

    Attributes:
        title: the document's title and the headings above.
        content: its text.
        heading: the headings above, outermost first.
        number: its place under these headings, from 1.
        of: how many parts there are under them.
    """

    title: str
    content: str
    heading: tuple[str, ...]
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class _Source:
    root: str
    path: str
    file: Path


@dataclass(frozen=True, slots=True)
class _Kept:
    id: str
    title: str
    content: str
    source: JSONObject
    context: JSONObject
    project: str | None
    updated_at: str

    @property
    def key(self) -> tuple[str, tuple[str, ...], int]:
        heading = tuple(str(word) for word in cast("list[JSON]", self.source.get("heading") or []))
        return str(self.source.get("path")), heading, cast("int", self.source.get("part") or 1)


@cache
def _tokenizer() -> WordPiece:
    return WordPiece()


def count_tokens(text: str) -> int:
    """Count the tokens that the default embedder makes of a text, without those that mark its ends."""
    ids, _ = _tokenizer().encode(text, max_tokens=1_000_000)
    return len(ids) - 2


def ingest(
    client: KnowledgeClient,
    paths: Sequence[Path],
    *,
    category: str = "document",
    project: str | None = None,
    root: str | None = None,
    max_tokens: int = PART_TOKENS,
    overlap_tokens: int = OVERLAP_TOKENS,
    dry_run: bool = False,
    allow_credentials: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Take documents in, or bring what was taken in up to date with them.

    Args:
        client: a client of the workspace.
        paths: files and directories. Of a directory also what vanished is noticed.
        category: category of the items.
        project: their project.
        root: the name under which parts are known; None: the absolute path of the directory. With a name of its
            own a directory stays the same when it moves, or on another machine.
        max_tokens: tokens of text in a part.
        overlap_tokens: how much of the part before is repeated where a section is split, in tokens.
        dry_run: say what would happen.
        allow_credentials: take texts though they look like they hold credentials.
        progress: told how many files are done, and of how many.

    Returns:
        by outcome: files: read, skipped, failed; parts: created, edited, unchanged, duplicate, deprecated, failed.
    """
    report = Report(dry_run=dry_run)
    sources, whole = _find(paths, root, report)
    unread: set[tuple[str, str]] = set()
    kept: dict[str, list[_Kept]] = {}
    for name in {source.root for source in sources} | whole.keys():
        kept[name] = list(_read_kept(client, name))
    todo = _Todo(client, report, category, project, dry_run, allow_credentials)
    for done, source in enumerate(sources, 1):
        before = [one for one in kept[source.root] if one.source.get("path") == source.path]
        try:
            parts = list(split_file(source.file, max_tokens=max_tokens, overlap_tokens=overlap_tokens))
        except SkippedFileError as reason:
            report.trouble("file", str(source.file), "skipped", str(reason))
            unread.add((source.root, source.path))
        except OSError as error:
            report.trouble("file", str(source.file), "failed", error.strerror or str(error))
            unread.add((source.root, source.path))
        else:
            report.count("file", "read")
            todo.compare(source, parts, before)
        progress(done, len(sources))
    there = {(source.root, source.path) for source in sources}
    for name, skipped in whole.items():
        for one in kept[name]:
            place = (name, str(one.source.get("path")))
            if place not in there and place not in unread and not _is_passed_over(place, skipped):
                todo.retire(one, "the file is gone")
    todo.finish()
    return report


class SkippedFileError(Exception):
    """A file that is no document."""


class _Todo:
    """What is to be written: new parts in batches, everything else one by one."""

    def __init__(
        self,
        client: KnowledgeClient,
        report: Report,
        category: str,
        project: str | None,
        dry_run: bool,
        allow_credentials: bool,
    ) -> None:
        self._client = client
        self._report = report
        self._category = category
        self._project = project
        self._dry_run = dry_run
        self._allow_credentials = allow_credentials
        self._new: list[tuple[str, NewKnowledge]] = []

    def compare(self, source: _Source, parts: Sequence[Part], before: Sequence[_Kept]) -> None:
        by_key = {one.key: one for one in before}
        by_text: dict[tuple[str, str], _Kept] = {}
        for one in before:
            by_text.setdefault((one.title, one.content), one)
        left = {one.id: one for one in before}
        unmatched: list[Part] = []
        matched: list[tuple[Part, _Kept]] = []
        # The same words first, wherever they have gone; then what stands in the same place.
        for part in parts:
            one = by_text.get((part.title, part.content))
            if one is not None and left.pop(one.id, None) is not None:
                matched.append((part, one))
            else:
                unmatched.append(part)
        for part in unmatched:
            one = by_key.get((source.path, part.heading, part.number))
            if one is not None and left.pop(one.id, None) is not None:
                matched.append((part, one))
            else:
                self._record(source, part)
        # Before the edits: a part that goes must not stand in the way of one that comes to say the same.
        for one in left.values():
            self.retire(one, f"no longer in {source.path}")
        for part, one in matched:
            self._edit(source, part, one)

    def _record(self, source: _Source, part: Part) -> None:
        where = _where(source, part)
        self._new.append(
            (
                where,
                NewKnowledge(
                    content=part.content,
                    title=part.title,
                    category=self._category,
                    project_context=self._project,
                    context_data={"source": _source(source, part)},
                ),
            )
        )
        if len(self._new) >= _BATCH:
            self.finish()

    def _edit(self, source: _Source, part: Part, one: _Kept) -> None:
        changes: JSONObject = {}
        if (part.title, part.content) != (one.title, one.content):
            changes |= {"title": part.title, "content": part.content}
        told = _source(source, part)
        if told != one.source:
            changes["context_data"] = {**one.context, "source": told}
        if self._project is not None and self._project != one.project:
            changes["project_context"] = self._project
        if not changes:
            self._report.count("part", "unchanged")
            return
        where = _where(source, part)
        try:
            if not self._dry_run:
                self._client.edit(one.id, changes, allow_credentials=self._allow_credentials)
        except APIError as error:
            self._report.trouble("part", where, "failed", _words(error), one.id)
        else:
            self._report.count("part", "edited" if "content" in changes else "moved")

    def retire(self, one: _Kept, reason: str) -> None:
        path, heading, number = one.key
        where = " > ".join((path, *heading, str(number)))
        try:
            if not self._dry_run:
                self._client.validate(one.id, "deprecated", note=reason)
        except APIError as error:
            self._report.trouble("part", where, "failed", _words(error), one.id)
        else:
            self._report.count("part", "deprecated")

    def finish(self) -> None:
        new, self._new = self._new, []
        if self._dry_run:
            if new:
                self._report.count("part", "created", len(new))
            return
        try:
            if new:
                self._remember(new)
        except APIError:
            # One bad part refuses the whole batch: one by one, the others go in.
            for one in new:
                try:
                    self._remember([one])
                except APIError as error:
                    self._report.trouble("part", one[0], "failed", _words(error))

    def _remember(self, new: Sequence[tuple[str, NewKnowledge]]) -> None:
        recorded = self._client.remember_many(
            [piece for _, piece in new], allow_credentials=self._allow_credentials
        )
        for one in recorded:
            self._report.count("part", one.outcome)


def _source(source: _Source, part: Part) -> JSONObject:
    return {
        "kind": "document",
        "root": source.root,
        "path": source.path,
        "heading": list(part.heading),
        "part": part.number,
        "parts": part.of,
    }


def _where(source: _Source, part: Part) -> str:
    return " > ".join((source.path, *part.heading, str(part.number)))


def _read_kept(client: KnowledgeClient, root: str) -> Iterator[_Kept]:
    for record in client.export_items({"source": {"kind": "document", "root": root}}):
        item = cast("JSONObject", cast("JSONObject", json.loads(record.line))["item"])
        if item["validation_status"] == "deprecated" or item["superseded_by"] is not None:
            continue
        context = cast("JSONObject", item["context_data"])
        yield _Kept(
            id=str(item["id"]),
            title=str(item["title"]),
            content=str(item["content"]),
            source=cast("JSONObject", context["source"]),
            context=context,
            project=cast("str | None", item["project_context"]),
            updated_at=str(item["updated_at"]),
        )


# -- finding files


def _find(
    paths: Sequence[Path], root: str | None, report: Report
) -> tuple[list[_Source], dict[str, set[tuple[str, str]]]]:
    """List the files; and of each directory that is taken whole, by root, what of it was passed over."""
    sources: list[_Source] = []
    whole: dict[str, set[tuple[str, str]]] = {}
    for path in paths:
        if path.is_symlink():
            report.trouble("file", str(path), "skipped", "a symbolic link is not followed")
        elif path.is_dir():
            name = root or str(path.resolve())
            passed = whole.setdefault(name, set())
            for file in _walk(path, partial(_pass_over, path, name, passed, report)):
                relative = file.relative_to(path).as_posix()
                if file.is_symlink():
                    report.trouble("file", str(file), "skipped", "a symbolic link is not followed")
                    passed.add((name, relative))
                elif file.suffix.lower() in MARKDOWN | HTML | TEXT:
                    sources.append(_Source(name, relative, file))
                else:
                    report.trouble("file", str(file), "skipped", "not Markdown, HTML or text")
                    passed.add((name, relative))
        elif path.is_file():
            sources.append(_Source(root or str(path.resolve().parent), path.name, path))
        else:
            report.trouble("file", str(path), "failed", "no such file or directory")
    known: dict[tuple[str, str], _Source] = {}
    for one in sources:
        if known.setdefault((one.root, one.path), one).file.resolve() != one.file.resolve():
            report.trouble(
                "file", str(one.file), "failed", f"{known[one.root, one.path].file} has the same path here"
            )
    return list(known.values()), whole


def _pass_over(
    directory: Path, name: str, passed: set[tuple[str, str]], report: Report, place: Path, why: str | OSError
) -> None:
    """Note a directory that is not read, so that nothing below it counts as gone."""
    passed.add((name, f"{place.relative_to(directory).as_posix()}/"))
    if isinstance(why, str):
        report.trouble("directory", str(place), "skipped", why)
    else:
        report.trouble("directory", str(place), "failed", why.strerror or str(why))


def _is_passed_over(place: tuple[str, str], passed: set[tuple[str, str]]) -> bool:
    name, path = place
    above = {
        f"{parent.as_posix()}/" for parent in PurePosixPath(path).parents
    }  # "./" is the directory itself
    return place in passed or any((name, one) in passed for one in above)


def _walk(directory: Path, pass_over: Callable[[Path, str | OSError], None]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        pass_over(Path(error.filename), error)

    for place, names, files in os.walk(directory, onerror=fail):
        names[:] = sorted(
            name for name in names if not name.startswith(".") and name not in _SKIPPED_DIRECTORIES
        )
        for linked in [name for name in names if (Path(place) / name).is_symlink()]:
            names.remove(linked)
            pass_over(Path(place) / linked, "a symbolic link is not followed")
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


# -- splitting


def split_file(
    file: Path, *, max_tokens: int = PART_TOKENS, overlap_tokens: int = OVERLAP_TOKENS
) -> Iterator[Part]:
    """Read a file and split it.

    Raises:
        SkippedFileError: it is too large, binary, empty, nested too deeply, or no regular file.
        OSError: it can't be read.
    """
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise SkippedFileError("it is no regular file")
    if about.st_size > MAX_BYTES:
        raise SkippedFileError(f"larger than {MAX_BYTES // 1_000_000} MB")
    text = _decode(file.read_bytes())
    if not text.strip():
        raise SkippedFileError("there is no text in it")
    try:
        parts = _split_document(file, text, max_tokens, overlap_tokens)
    except RecursionError:
        raise SkippedFileError("it is nested too deeply") from None
    if not parts:
        raise SkippedFileError("there is no text in it")
    yield from parts


def _split_document(file: Path, text: str, max_tokens: int, overlap_tokens: int) -> list[Part]:
    suffix = file.suffix.lower()
    title = None
    if suffix in HTML:
        text, title = _from_html(text)
    elif suffix in MARKDOWN:
        text, title = _without_front_matter(text)
    is_markdown = suffix in MARKDOWN | HTML
    return list(
        split_text(
            text,
            title=title,
            name=file.stem,
            is_markdown=is_markdown,
            max_tokens=max_tokens,
            overlap_tokens=overlap_tokens,
        )
    )


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\x00" in data[:8192]:
        raise SkippedFileError("it is binary")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = from_bytes(data).best()
        if best is None:
            raise SkippedFileError("it is binary, or of an encoding that can't be told") from None
        text = str(best)
    # What PostgreSQL's text can't hold; and one kind of line end, so that a checkout elsewhere says the same.
    return text.replace("\x00", "\ufffd").replace("\r\n", "\n").replace("\r", "\n")


def _without_front_matter(text: str) -> tuple[str, str | None]:
    try:
        post = frontmatter.loads(text)
    except (yaml.YAMLError, ValueError, TypeError):
        return text, None
    title = cast("object", post.metadata.get("title") or post.metadata.get("name"))
    return post.content, None if title is None else str(title)


def _from_html(text: str) -> tuple[str, str | None]:
    page = BeautifulSoup(text, "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title is not None else None
    for tag in page(["script", "style", "template", "noscript", "head", "nav", "svg"]):
        tag.decompose()
    converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["img"])
    return converter.convert_soup(page), title or None


@dataclass(slots=True)
class _Section:
    heading: tuple[str, ...]
    blocks: list[str]


def split_text(
    text: str,
    *,
    title: str | None = None,
    name: str = "document",
    is_markdown: bool = True,
    max_tokens: int = PART_TOKENS,
    overlap_tokens: int = OVERLAP_TOKENS,
) -> Iterator[Part]:
    """Split a text at its headings, and what is still too long between its blocks.

    Args:
        text: the text.
        title: the document's title; None: its first heading of the first level, else its name.
        name: what it is called.
        is_markdown: split at headings; else at blank lines only.
        max_tokens: tokens in a part, the overlap included.
        overlap_tokens: how much of the part before is repeated, in tokens.
    """
    sections = _sections(text) if is_markdown else [_Section((), re.split(r"\n\s*\n", text))]
    if title is None:
        title = next((one.heading[0] for one in sections if one.heading), None) or name
    numbers: dict[tuple[str, ...], int] = {}
    ready: list[tuple[tuple[str, ...], str]] = []
    for section in sections:
        blocks = [block.strip("\n") for block in section.blocks if block.strip()]
        for content in _pack(blocks, max_tokens, overlap_tokens):
            ready.append((section.heading, content))
            numbers[section.heading] = numbers.get(section.heading, 0) + 1
    given: dict[tuple[str, ...], int] = {}
    for heading, content in ready:
        given[heading] = given.get(heading, 0) + 1
        below = heading[1:] if heading and heading[0] == title else heading
        words = " > ".join((title, *below))
        if numbers[heading] > 1:
            words = f"{words[:480]} ({given[heading]})"
        yield Part(
            title=" ".join(words[:495].split()) or name,
            content=content,
            heading=heading,
            number=given[heading],
            of=numbers[heading],
        )


def _sections(text: str) -> list[_Section]:
    lines = text.split("\n")
    above: list[tuple[int, str]] = []
    sections = [_Section((), [])]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for place, token in enumerate(tokens):
        if token.level != 0 or token.map is None or token.nesting == -1:
            continue
        if token.type == "heading_open":
            level = int(token.tag[1])
            words = " ".join(tokens[place + 1].content.split())
            above = [one for one in above if one[0] < level] + [(level, words)]
            sections.append(_Section(tuple(heading for _, heading in above if heading), []))
        else:
            sections[-1].blocks.append("\n".join(lines[token.map[0] : token.map[1]]))
    return sections


def _pack(blocks: Sequence[str], max_tokens: int, overlap_tokens: int) -> Iterator[str]:
    """Put blocks together into parts of so many tokens; each begins with the end of the one before."""
    pieces = [piece for block in blocks for piece in _fitting(block, max_tokens - overlap_tokens)]
    current: list[str] = []
    size = 0
    for piece in pieces:
        tokens = count_tokens(piece)
        if current and size + tokens > max_tokens:
            yield "\n\n".join(current)
            tail = _tail(" ".join(current), overlap_tokens)
            current = [tail] if tail else []
            size = count_tokens(tail) if tail else 0
        current.append(piece)
        size += tokens
    if current:
        yield "\n\n".join(current)


def _fitting(block: str, max_tokens: int) -> Iterator[str]:
    """Split a block that is too long: between lines, then sentences, then words, then anywhere."""
    if count_tokens(block) <= max_tokens:
        yield block
        return
    for pattern, glue in ((r"\n", "\n"), (r"(?<=[.!?。！？])\s+", " "), (r"\s+", " ")):  # noqa: RUF001 - full width
        pieces = [piece for piece in re.split(pattern, block) if piece.strip()]
        if len(pieces) > 1:
            yield from _join(pieces, glue, max_tokens)
            return
    half = len(block) // 2
    yield from _fitting(block[:half], max_tokens)
    yield from _fitting(block[half:], max_tokens)


def _join(pieces: Iterable[str], glue: str, max_tokens: int) -> Iterator[str]:
    current: list[str] = []
    size = 0
    for piece in pieces:
        for part in _fitting(piece, max_tokens):
            tokens = count_tokens(part)
            if current and size + tokens > max_tokens:
                yield glue.join(current)
                current, size = [], 0
            current.append(part)
            size += tokens
    if current:
        yield glue.join(current)


def _tail(text: str, tokens: int) -> str:
    """Return the last words of a text, up to so many tokens; none where that would be all of it."""
    words = text.split()
    taken: list[str] = []
    size = 0
    for word in reversed(words):
        size += count_tokens(word)
        if size > tokens:
            break
        taken.append(word)
    return "" if len(taken) == len(words) or not taken else "… " + " ".join(reversed(taken))


def _words(error: APIError) -> str:
    if isinstance(error, CredentialError):
        return f"{error.message}; --allow-credentials takes it all the same"
    return error.message
