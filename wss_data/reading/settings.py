"""Settings with the meaning and the range of each value on its field, checked by pydantic, refused in our words.

::

    @settings("co-segmentation method 'common'", CosegmentationError)
    class CommonSettings:
        folds: Annotated[int, Field(ge=2, le=10, description="Parts that a group is split into.")] = 3

    CommonSettings(folds=1)
    # CosegmentationError: co-segmentation method 'common': folds is 1, expected a whole number from 2 to 10.

What several values must fulfil together stands in ``__post_init__``, which raises the error of its room.
"""

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import wraps
from textwrap import shorten
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import annotated_types
import pydantic
import pydantic.dataclasses
from pydantic_core import core_schema

from wss_data.errors import WssError, shown
from wss_data.errors.text import is_clean

_Kind = TypeVar("_Kind")

_WHERE: ContextVar[str] = ContextVar("where settings stand", default="")

_STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True)
def settings(what: str, error: type[WssError]) -> Callable[[type[_Kind]], type[_Kind]]:
    """Make a class a frozen dataclass whose values are checked whenever one is made; also by ``dataclasses.replace``.

    A whole number will do for a float, a list for a tuple; nothing else is converted: ``"3"`` and ``True`` are no
    numbers, and no number is infinite. What is refused raises ``error``; its sentence begins with ``what``.
    """

    def refused(words: str) -> WssError:
        return error(f"{_WHERE.get() or what}{words}")

    def make(kind: type[_Kind]) -> type[_Kind]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)(kind)
        check = made.__init__

        @wraps(check)
        def checked(self: Any, /, *values: Any, **named: Any) -> None:
            names = [field.name for field in fields(made) if field.init]
            if len(values) > len(names):
                raise TypeError(f"{made.__name__} takes {len(names)} values, {len(values)} were given")
            given = {**dict(zip(names, values, strict=False)), **named}
            unknown = [str(name) for name in given if name not in names]
            if unknown:
                close = "".join(f" (is {name} meant?)" for name in get_close_matches(unknown[0], names, n=1))
                # Of a recipe's many options the list alone would be longer than a screen.
                known = shorten(", ".join(names), 600, placeholder=" ...")
                raise refused(f": there is no option {shown(unknown[0])}{close}. Known options: {known}.")
            try:
                # Definitions come from YAML and JSON, which know lists alone.
                check(self, **{name: _as_tuples(value) for name, value in given.items()})
            except pydantic.ValidationError as refusal:
                raise refused(f": {_sentence(made, refusal)}") from None

        made.__init__ = checked
        return made

    return make


class Expected(NamedTuple):
    """A note on a field: what is expected, where its kind and range do not say it best."""

    words: str


class Line(NamedTuple):
    """A note on a text: it is on one line, without control characters, of 1 to ``longest`` characters."""

    longest: int

    @property
    def words(self) -> str:
        """What is expected."""
        return f"a text of 1 to {self.longest} characters on one line (in quotes where it would be something else)"

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if not 0 < len(value) <= self.longest or not is_clean(value):
            raise ValueError
        return value


@contextmanager
def settings_of(where: str) -> Iterator[None]:
    """Name ``where`` in what is refused in the block, such as a file and a key in it."""
    token = _WHERE.set(where)
    try:
        yield
    finally:
        _WHERE.reset(token)


def only_known(options: Mapping[str, Any], kind: type) -> None:
    """Raise ``TypeError`` for a keyword argument that a ``TypedDict`` does not name, as Python itself does."""
    for name in options.keys() - kind.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument '{name}'; known are {', '.join(kind.__annotations__)}")


class Option(NamedTuple):
    """One setting, for a page or a help text."""

    name: str
    expected: str  # its kind and range, such as "a whole number from 2 to 10"
    default: Any  # dataclasses.MISSING if a value must be given
    meaning: str  # what it does, with its unit and the source of its default


def options_of(kind: type) -> list[Option]:
    """The settings that a class made by ``settings`` has, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if isinstance(default, pydantic.fields.FieldInfo):
            default = default.get_default(call_default_factory=True, validated_data={})
        notes = getattr(hints[field.name], "__metadata__", ())
        meanings = [note.description for note in notes if isinstance(note, pydantic.fields.FieldInfo)]
        meaning = next(filter(None, meanings), "")
        found.append(Option(field.name, expected(hints[field.name]), default, meaning))
    return found


def expected(hint: Any) -> str:
    """What a value of an annotation may be, in words.

    >>> expected(typing.Annotated[int, pydantic.Field(ge=2, le=10)])
    'a whole number from 2 to 10'
    >>> expected(typing.Annotated[float, pydantic.Field(gt=0)] | None)
    'a number over 0, or nothing'
    >>> expected(typing.Literal["sgd", "adamw"])
    'sgd or adamw'
    """
    hint, notes = _split(hint)
    if said := [note.words for note in notes if hasattr(note, "words")]:
        return said[0]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [expected(part) for part in arguments if part is not types.NoneType]
        return " or ".join(parts) + (", or nothing" if types.NoneType in arguments else "")
    if origin is typing.Literal:
        return " or ".join([", ".join(map(str, arguments[:-1])), str(arguments[-1])] if arguments[1:] else arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            least = [f" of at least {note.min_length}" for note in notes if isinstance(note, annotated_types.MinLen)]
            return f"a list{''.join(least)}, each {expected(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(expected(part) for part in arguments)}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(hint, getattr(hint, "__name__", str(hint))) + (_range(notes) if hint in (int, float) else "")


def _split(hint: Any) -> tuple[Any, list[Any]]:
    """An annotation without its notes, and these notes, those within a ``Field`` or an ``Interval`` included."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, []
    bare, *notes = typing.get_args(hint)
    found: list[Any] = []
    for note in notes:
        inner = note.metadata if isinstance(note, pydantic.fields.FieldInfo) else note
        found += inner if isinstance(inner, (list, annotated_types.GroupedMetadata)) else [inner]
    return bare, found


def _range(notes: list[Any]) -> str:
    bounds = {name: getattr(note, name) for note in notes for name in ("ge", "gt", "le", "lt") if hasattr(note, name)}
    if {"ge", "le"} <= set(bounds):
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "of at least", "gt": "over", "le": "of at most", "lt": "under"}
    said = [f"{words[name]} {bounds[name]}" for name in ("ge", "gt", "le", "lt") if name in bounds]
    return f" {' and '.join(said)}" if said else ""


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _sentence(kind: type, refusal: pydantic.ValidationError) -> str:
    first: Mapping[str, Any] = refusal.errors(include_url=False)[0]
    name = str(first["loc"][0])
    wanted = expected(typing.get_type_hints(kind, include_extras=True)[name])
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} is missing, expected {wanted}."
    # What a check of ours found, beside what is expected of any value.
    more = str(first.get("ctx", {}).get("error", ""))
    return f"{name} is {shown(first['input'])}, expected {wanted}{f' ({more})' if more else ''}."
