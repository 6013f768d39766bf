"""SQL functions of schema ``electric`` for a session that has no such schema: their texts, moved to ``pg_temp``. Pure.

What keeps a table from being synced, and what devices are told of it, is decided in SQL, by functions that ask the
catalogue alone. The doctor is to decide the same, in a database where nothing of ours is installed and nothing may be
left. So it makes them in its own temporary schema, in a transaction that it rolls back.

Names of functions alone are moved. A hint such as ``CALL electric.electrify(...)`` names a procedure, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FUNCTION = re.compile(
    r"^CREATE (?:OR REPLACE )?FUNCTION electric\.(?P<name>\w+)\(.*?^\$\$;$", re.MULTILINE | re.DOTALL
)
_NAME = re.compile(r"\belectric\.(\w+)(?=\()")


def borrowed(sources: Iterable[str], roots: Iterable[str]) -> str:
    """Statements that make the functions ``roots``, and whatever functions of ``sources`` they call, in ``pg_temp``.

    Raises KeyError for a root that ``sources`` do not define.
    """
    texts: dict[str, list[str]] = {}
    for source in sources:
        for match in _FUNCTION.finditer(source):
            texts.setdefault(match["name"], []).append(match[0])
    wanted: list[str] = []
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.append(name)
            called = _NAME.findall("".join(texts[name]))
            waiting += [other for other in called if other in texts]
    statements = "\n".join(text for name in wanted for text in texts[name])
    return _NAME.sub(lambda match: f"pg_temp.{match[1]}" if match[1] in texts else match[0], statements)
