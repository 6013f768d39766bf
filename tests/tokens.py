"""Tokens for services in insecure mode."""

from __future__ import annotations

import base64
import json


def insecure_token(user: str) -> str:
    """An unsigned JWT of ``user``."""

    def part(value: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'sub': user})}."
