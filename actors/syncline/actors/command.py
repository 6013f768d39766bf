"""The entry point of the command ``syncline``: the base install is the device alone, and says so."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from syncline.actors.cli import main as run
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.startswith("syncline"):
            raise
        sys.exit(f"the service is not installed here (no {missing.name}): run pip install 'syncline[server]'")
    run()
