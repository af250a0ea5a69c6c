"""`scripts/generate-keys`: write `.env` with fresh secrets, once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ConfigurationError
from .keys import fill_in, generate_secrets, write_private_text

_ROOT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/generate-keys",
        description="Make all secrets of a self-hosted deployment and write them to .env: passwords, the key"
        " that signs tokens with the key set that verifies them, API keys, and the tokens behind those.",
        epilog="It never replaces a secret: where there is a .env, nothing happens without --force.",
    )
    parser.add_argument("--output", type=Path, default=_ROOT / ".env", help="the file (default: .env)")
    parser.add_argument(
        "--template",
        type=Path,
        default=_ROOT / ".env.example",
        help="what it is made of (default: .env.example)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the file: every key stops working, and the database keeps the old passwords",
    )
    options = parser.parse_args()
    output: Path = options.output
    if output.exists() and not options.force:
        _say(
            f"error: {output} is there already; nothing was changed.\n"
            "       Its secrets are those of the running deployment; --force replaces the file."
        )
        return 1
    try:
        made = generate_secrets()
        text = fill_in(options.template.read_text(), made)
        if not options.dry_run:
            write_private_text(output, text)
    except (OSError, ConfigurationError) as error:
        _say(f"error: {error}")
        return 1
    done = "would write" if options.dry_run else "wrote"
    _say(f"{done} {output} with {len(made)} secrets; keep it as safe as the data")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
