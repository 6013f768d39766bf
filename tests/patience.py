"""How long a test waits for what has to happen: long enough for a machine ten times slower than ours.

No test shows how fast anything is. A deadline only turns a hang into a failure that says what was waited for, so it
lies far beyond what is usual, and within the fifteen minutes after which pytest ends a test that hangs.
"""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 120.0
