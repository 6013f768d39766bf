"""Messages as bytes, for links: msgpack, with tuples, refs and the dataclasses and enums that both ends declared.

Only declared types are ever built from received bytes, by calling their constructor with their fields; nothing in a
frame can name code. Both ends must declare the same types under the same names.

Field by field costs some 10 us a value. What carries thousands of rows in a message brings a ``Form`` of its own: the
whole of it as plain values, which msgpack packs at its own speed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import msgpack

from syncline.cluster.ref import Address, Ref
from syncline.cluster.spec import ChildSpec, Exit, ExitKind, Factory, Overflow, Restart, Strategy

TUPLE: Final = 1
RECORD: Final = 2
ENUM: Final = 3  # and whatever else is made of one plain value
REF: Final = 4
FROZENSET: Final = 5
BIG_INT: Final = 6
FORM: Final = 7

SCALARS: Final = (int, str, bytes)
OWN_TYPES: Final[tuple[type, ...]] = (Address, ChildSpec, Exit, ExitKind, Factory, Overflow, Restart, Strategy)


T = TypeVar("T")


class WireError(Exception):
    """A value of a type that was not declared, or bytes that are no message."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """A type's own way over a link. ``plain`` makes tuples, numbers, texts and bytes of a value, nothing else: no ref,
    no integer beyond 64 bits; ``value`` makes the value of them again, and raises ValueError, TypeError, IndexError or
    KeyError for plain values that are none."""

    plain: Callable[[T], object]
    value: Callable[[Any], T]


Forms = Mapping[type, Form[Any]]


class Wire:
    """A codec. ``types`` are the dataclasses and enums that may cross, besides plain values and refs; ``forms``: types
    that cross in a form of their own."""

    def __init__(self, types: Iterable[type] = (), forms: Forms | None = None) -> None:
        self._names: dict[type, str] = {}
        self._types: dict[str, type] = {}
        self._forms = dict(forms or {})
        for declared in (*OWN_TYPES, *types, *self._forms):
            self.declare(declared)

    def declare(self, declared: type) -> None:
        """Lets a type cross: a dataclass, an enum, or a kind of int, str or bytes. Raises ``ValueError`` for others."""
        if not (dataclasses.is_dataclass(declared) or issubclass(declared, (Enum, *SCALARS))):
            raise ValueError(f"{declared.__name__} is no dataclass, enum, int, str or bytes")
        name = f"{declared.__module__}.{declared.__qualname__}"
        if self._types.setdefault(name, declared) is not declared:
            raise ValueError(f"{name} is declared twice")
        self._names[declared] = name

    def encode(self, value: object, address_of: Callable[[Ref], Address]) -> bytes:
        """``value`` as bytes; ``address_of`` says how the other end reaches a ref. Raises ``WireError``."""

        def default(item: object) -> msgpack.ExtType:
            def pack(content: object) -> bytes:
                packed: bytes = msgpack.packb(content, default=default, strict_types=True)
                return packed

            if isinstance(item, tuple) and type(item) is tuple:
                return msgpack.ExtType(TUPLE, pack(list(item)))
            if isinstance(item, Ref):
                address = address_of(item)
                return msgpack.ExtType(REF, pack([address.host, address.target, address.label]))
            if isinstance(item, frozenset):
                return msgpack.ExtType(FROZENSET, pack(list(item)))
            if isinstance(item, int) and type(item) is int:
                return msgpack.ExtType(BIG_INT, str(item).encode())
            name = self._names.get(type(item))
            if name is None:
                raise WireError(f"{type(item).__name__} may not cross a link: it was not declared")
            if isinstance(item, Enum):
                return msgpack.ExtType(ENUM, pack([name, item.value]))
            form = self._forms.get(type(item))
            if form is not None:
                return msgpack.ExtType(FORM, msgpack.packb((name, form.plain(item))))
            if isinstance(item, SCALARS):
                return msgpack.ExtType(ENUM, pack([name, _plain(item)]))
            return msgpack.ExtType(RECORD, pack([name, *self._fields(item)]))

        try:
            packed: bytes = msgpack.packb(value, default=default, strict_types=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"{type(value).__name__} cannot be encoded: {error}") from error
        return packed

    def decode(self, data: bytes, ref_of: Callable[[Address], Ref]) -> Any:
        """The value; ``ref_of`` makes a ref of an address. Raises ``WireError`` whatever the bytes are."""

        def hook(code: int, packed: bytes) -> object:
            if code == BIG_INT:
                return int(packed)
            if code == FORM:
                name, plain = msgpack.unpackb(packed, use_list=False)
                form = self._forms.get(self._types.get(name, object))
                if form is None:
                    raise WireError(f"{name} has no form here")
                return form.value(plain)
            content = unpack(packed)
            if code == TUPLE:
                return tuple(content)
            if code == REF:
                return ref_of(Address(*content))
            if code == FROZENSET:
                return frozenset(content)
            if code in (RECORD, ENUM):
                name, *fields = content
                if name not in self._types:
                    raise WireError(f"{name} was not declared here")
                return _build(self._types[name], fields) if code == RECORD else self._types[name](*fields)
            raise WireError(f"unknown extension {code}")

        def unpack(packed: bytes) -> Any:
            return msgpack.unpackb(packed, ext_hook=hook, strict_map_key=False)

        try:
            return unpack(data)
        except WireError:
            raise
        except (TypeError, ValueError, LookupError, RecursionError, msgpack.exceptions.UnpackException) as error:
            raise WireError(f"not a message: {error}") from error

    def _fields(self, item: object) -> list[object]:
        if isinstance(item, Exit):
            return [item.kind, None, item.detail or (repr(item.cause) if item.cause is not None else "")]
        return [getattr(item, name) for name in _field_names(type(item))]


def _field_names(declared: type) -> list[str]:
    """The fields that its constructor takes, in order."""
    return [field.name for field in dataclasses.fields(declared) if field.init]


def _build(declared: type, values: list[object]) -> object:
    """A dataclass of its fields. Raises ``ValueError`` when the other end knows it with more or fewer."""
    return declared(**dict(zip(_field_names(declared), values, strict=True)))


def _plain(item: int | str | bytes) -> int | str | bytes:
    """A value of a declared kind of int, str or bytes, as what it is a kind of."""
    if isinstance(item, int):
        return int(item)
    return str.__str__(item) if isinstance(item, str) else bytes(item)
