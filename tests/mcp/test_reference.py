"""What the reference says of the tools is so."""

from __future__ import annotations

import re
from pathlib import Path

from knowledge_persistence.mcp.resources import PROMPTS, RESOURCES, TEMPLATES
from knowledge_persistence.mcp.tools import TOOLS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "mcp.md").read_text("utf-8")


def test_every_tool_and_argument_is_there() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(TOOLS)
    for name, spec in TOOLS.items():
        properties = spec.described().input_schema["properties"]
        told = re.findall(r"`(\w+)`(?: \((\d+) to (\d+)(?:; (\d+))?\))?", rows[name])
        assert [one[0] for one in told] == list(properties), name
        for argument, low, high, default in told:
            schema = properties[argument]
            bounds = (str(schema.get("minimum", "")), str(schema.get("maximum", "")))
            assert (low, high) == bounds, f"{name}.{argument}"
            if low:
                assert default == str(schema.get("default", "")), f"{name}.{argument}"


def test_every_resource_and_prompt_is_there() -> None:
    for address in (*(one.uri for one in RESOURCES), *(one.uri_template for one in TEMPLATES)):
        assert f"`{address}`" in PAGE
    assert all(f"prompt `{one.name}`" in PAGE for one in PROMPTS)
