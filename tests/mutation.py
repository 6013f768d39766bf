"""Rules of the product broken on purpose, one at a time, to see whether a test notices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeAlias
from unittest import mock

from tests.sim.limits import having

Mutation: TypeAlias = Callable[[ExitStack], None]
"""Breaks a rule for as long as the stack lasts."""


class Mutants(dict[str, Mutation]):
    """By name."""

    def add(self, name: str) -> Callable[[Mutation], Mutation]:
        """Decorates a mutation that is to be known by ``name``."""

        def add(mutation: Mutation) -> Mutation:
            self[name] = mutation
            return mutation

        return add


def in_place_of(stack: ExitStack, owner: type, name: str, change: Callable[..., Any]) -> None:
    """``change(original, self, ...)`` in place of ``owner.name``."""
    original = getattr(owner, name)

    @wraps(original)
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(original, self, *args, **kwargs)

    stack.enter_context(mock.patch.object(owner, name, changed))


def everywhere(stack: ExitStack, function: Callable[..., Any], change: Callable[..., Any]) -> None:
    """``change(function, ...)`` in place of ``function``, for everybody who has imported it."""

    @wraps(function)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(function, *args, **kwargs)

    for module in having(function.__name__):
        if getattr(module, function.__name__) is function:
            stack.enter_context(mock.patch.object(module, function.__name__, changed))
