"""A graph as others read it: DOT for Graphviz, and one HTML file for people, drawn by Cytoscape.js.

The page is self-contained. The libraries come from npm by a lock file, once; they, the style, the script and the
data are written into the file, and its content security policy lets nothing else run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from knowledge_persistence.models import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from knowledge_persistence.models import KnowledgeGraph

_SOURCES: Final = Path(__file__).resolve().parent
#: In the order in which they need each other.
_LIBRARIES: Final = (
    ("layout-base", "layout-base.js"),
    ("cose-base", "cose-base.js"),
    ("cytoscape", "dist/cytoscape.min.js"),
    ("cytoscape-fcose", "cytoscape-fcose.js"),
)
#: Read the same both ways.
_SYMMETRIC: Final = frozenset({"similar_to", "contradicts"})


def to_dot(graph: KnowledgeGraph) -> str:
    """Write a graph in DOT, Graphviz' language.

    Args:
        graph: what the client's `graph` returns.
    """
    lines = ["digraph knowledge {", "  node [shape=box, style=rounded];"]
    for item in graph.items:
        attributes = {
            "label": item.title,
            "knowledge_type": item.knowledge_type,
            "validation_status": item.validation_status,
        }
        lines.append(f'  "{item.knowledge_id}" [{_attributes(attributes)}];')
    for one in graph.relationships:
        attributes = {
            "label": one.relationship_type,
            "weight": f"{one.strength:g}",
            "penwidth": f"{0.5 + 2 * one.strength:g}",
        }
        if one.relationship_type in _SYMMETRIC:
            attributes["dir"] = "none"
        lines.append(
            f'  "{one.source_knowledge_id}" -> "{one.target_knowledge_id}" [{_attributes(attributes)}];'
        )
    return "\n".join([*lines, "}", ""])


def _attributes(values: dict[str, str]) -> str:
    return ", ".join(f'{name}="{_dot_text(value)}"' for name, value in values.items())


def _dot_text(value: str) -> str:
    # In a label a backslash begins an escape of Graphviz' own.
    plain = "".join(c for c in " ".join(value.split()) if unicodedata.category(c) not in {"Cc", "Cf"})
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def to_html(graph: KnowledgeGraph, *, title: str, progress: Callable[[str], None] | None = None) -> str:
    """Write a graph as one HTML page that a person can explore, without a network.

    Args:
        graph: what the client's `graph` returns; its first item is the middle if it has a depth.
        title: what the page is called.
        progress: told what happens while the libraries are installed, once.

    Raises:
        EmbeddedStackError: the libraries aren't installed yet and can't be: no Node, no npm, no network.
    """
    from knowledge_persistence.embedded.node import install_packages  # noqa: PLC0415 - not for DOT

    packages = install_packages(
        _SOURCES, name="graph", purpose="the picture", megabytes=16, progress=progress
    )
    scripts = [_library(packages / name, file) for name, file in _LIBRARIES]
    scripts.append(_inside_script((_SOURCES / "page.js").read_text("utf-8")))
    parts = {
        "title": html.escape(title),
        "policy": _policy(scripts),
        "style": (_SOURCES / "page.css").read_text("utf-8"),
        "data": _data({"title": title, **_plain(graph)}),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    template = (_SOURCES / "page.html").read_text("utf-8")
    # In one go: what was put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _plain(graph: KnowledgeGraph) -> dict[str, object]:
    return {
        "items": to_json(graph.items),
        "relationships": to_json(graph.relationships),
        "left_out": graph.relationships_left_out,
    }


def _library(package: Path, file: str) -> str:
    described = json.loads((package / "package.json").read_text("utf-8"))
    licence = (package / "LICENSE").read_text("utf-8").replace("*/", "* /")
    code = (package / file).read_text("utf-8")
    return _inside_script(f"/*! {described['name']} {described['version']}\n\n{licence}*/\n{code}")


def _inside_script(code: str) -> str:
    """Write a script so that no part of it ends its element, and so that a browser hashes the same characters."""
    code = re.sub(r"</(?=script)", r"<\\/", code, flags=re.IGNORECASE).replace("<!--", "<\\!--")
    return code.replace("\r\n", "\n").replace("\r", "\n")


def _data(value: dict[str, object]) -> str:
    """Write data for an element of type application/json: none of its characters means anything to HTML."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
