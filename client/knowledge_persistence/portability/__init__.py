"""Moving a memory: out, in, and beside a folder of files.

`jsonl` is the lossless form, `markdown` the one that people edit, `documents` splits files into items, and
`claude_code` reads what that agent has kept. None of it needs a model.
"""

from __future__ import annotations

from .jsonl import DamagedExportError, ExportSummary, export_jsonl, import_jsonl
from .report import Report, Trouble

__all__ = ["DamagedExportError", "ExportSummary", "Report", "Trouble", "export_jsonl", "import_jsonl"]
