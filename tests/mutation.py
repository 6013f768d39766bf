"""Rules of the product broken on purpose, one at a time, to see whether a test notices.

One that does not fit any more what it replaces would crash, and somebody would notice that. So such an error of its own
is a ``Misfit``, which nothing in the product or in a simulator catches: it ends the test.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import wraps
from inspect import iscoroutine
from typing import Any, TypeAlias
from unittest import mock

from tests.sim.limits import having

Mutation: TypeAlias = Callable[[ExitStack], None]
"""Breaks a rule for as long as the stack lasts."""


# What a function that has other parameters, attributes or keys by now raises.
MISFITTING = (TypeError, AttributeError, NameError, LookupError)


class Misfit(BaseException):
    """A mutant is out of date."""


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
        return fitting(change, original, self, *args, **kwargs)

    stack.enter_context(mock.patch.object(owner, name, changed))


def everywhere(stack: ExitStack, function: Callable[..., Any], change: Callable[..., Any]) -> None:
    """``change(function, ...)`` in place of ``function``, for everybody who has imported it."""

    @wraps(function)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return fitting(change, function, *args, **kwargs)

    for module in having(function.__name__):
        if getattr(module, function.__name__) is function:
            stack.enter_context(mock.patch.object(module, function.__name__, changed))


def fitting(change: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``change`` returns. Raises Misfit for an error that is its own, not one of what it calls."""
    try:
        result = change(*args, **kwargs)
    except MISFITTING as error:
        _raise_if_own(change, error)
        raise
    return _awaited(change, result) if iscoroutine(result) else result


async def _awaited(change: Callable[..., Any], result: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await result
    except MISFITTING as error:
        _raise_if_own(change, error)
        raise


def _raise_if_own(change: Callable[..., Any], error: Exception) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = None if trace is None else trace.tb_frame.f_code.co_filename
    if where in (change.__code__.co_filename, __file__):
        raise Misfit(f"{type(error).__name__}: {error}") from error
