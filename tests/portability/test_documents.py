"""Splitting documents: what a part holds, and how long it is."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_persistence.portability.documents import (
    MAX_BYTES,
    SkippedFileError,
    count_tokens,
    split_file,
    split_text,
)

if TYPE_CHECKING:
    from pathlib import Path

PAGE = """\
Before any heading.

# Ports

The origin listens on 54321.

## Change it

```bash
# not a heading
kp up --port 55000
```

Setext
------

Text under a heading with a ruler.

# Other
"""


def test_a_document_is_split_at_its_headings_and_nowhere_in_code() -> None:
    parts = list(split_text(PAGE, name="ports"))
    assert [(part.title, part.heading, part.number, part.of) for part in parts] == [
        ("Ports", (), 1, 1),
        ("Ports", ("Ports",), 1, 1),
        ("Ports > Change it", ("Ports", "Change it"), 1, 1),
        ("Ports > Setext", ("Ports", "Setext"), 1, 1),
    ]
    assert "# not a heading\nkp up --port 55000" in parts[2].content
    assert parts[0].content == "Before any heading."


def test_a_long_section_is_split_between_blocks_with_some_of_the_text_before() -> None:
    paragraphs = [f"Paragraph {n} says that item {n} is kept in place number {n}." for n in range(60)]
    parts = list(split_text("# Long\n\n" + "\n\n".join(paragraphs), max_tokens=120, overlap_tokens=20))
    assert len(parts) > 5
    assert all(count_tokens(part.content) <= 120 + 2 for part in parts)
    for paragraph in paragraphs:
        assert sum(paragraph in part.content for part in parts) >= 1
    for before, after in pairwise(parts):
        first = after.content.splitlines()[0]
        assert first.startswith("… ")
        assert first.removeprefix("… ") in " ".join(before.content.split())
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert {part.of for part in parts} == {len(parts)}
    assert len({part.title for part in parts}) == len(parts)


@given(st.text(min_size=1, max_size=3000), st.booleans())
def test_nothing_is_lost_and_nothing_too_long(text: str, is_markdown: bool) -> None:
    parts = list(split_text(text, is_markdown=is_markdown, max_tokens=60, overlap_tokens=10))
    assert all(part.content.strip() and part.title.strip() for part in parts)
    assert all(count_tokens(part.content) <= 75 for part in parts)
    if not is_markdown:
        kept = "".join("".join(part.content.split()) for part in parts)
        for word in text.split():
            assert word[:5] in kept or any(character in kept for character in word)


def test_encodings_are_told_and_what_is_no_text_is_passed_over(tmp_path: Path) -> None:
    def parts_of(name: str, data: bytes) -> list[str]:
        (tmp_path / name).write_bytes(data)
        return [part.content for part in split_file(tmp_path / name)]

    words = "Über die Straße gehen: naïve Gäste äußern Wünsche. " * 4
    assert parts_of("utf8.md", b"\xef\xbb\xbf" + words.encode()) == [words.strip()]
    assert parts_of("utf16.txt", words.encode("utf-16")) == [words.rstrip("\n")]
    assert "Straße" in parts_of("latin.txt", words.encode("cp1252"))[0]
    assert parts_of("windows.md", b"one\r\ntwo\r\n") == ["one\ntwo"]
    for name, data, reason in (
        ("image.txt", b"\x89PNG\x00\x00", "binary"),
        ("empty.md", b" \n\n", "no text"),
        ("only-heading.md", b"# Nothing below\n", "no text"),
        ("huge.txt", b"x" * (MAX_BYTES + 1), "larger"),
    ):
        with pytest.raises(SkippedFileError, match=reason):
            parts_of(name, data)
    with pytest.raises(SkippedFileError, match="nested too deeply"):
        parts_of("deep.html", b"<div>" * 20_000 + b"words")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SkippedFileError, match="no regular file"):
        list(split_file(tmp_path / "pipe"))


def test_html_keeps_its_words_and_loses_its_scripts(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "<html><head><title>The ports</title><style>b {}</style></head><body><nav>menu</nav>"
        "<h1>Ports</h1><p>The origin is <b>54321</b>.<h2>Why</h2><ul><li>one<li>two</ul>"
        "<script>alert(1)</script></body>"
    )
    parts = list(split_file(tmp_path / "page.html"))
    assert [part.title for part in parts] == ["The ports > Ports", "The ports > Ports > Why"]
    text = "\n".join(part.content for part in parts)
    assert "**54321**" in text
    assert "- one" in text
    assert "alert" not in text
    assert "menu" not in text
