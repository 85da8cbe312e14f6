"""Settings with the meaning and the range of each value on its field, checked by pydantic, refused in our words.

::

    @settings("co-segmentation method 'common'", CosegmentationError)
    class CommonSettings:
        folds: Annotated[int, Rule(ge=2, le=10), "Parts that a group is split into."] = 3

    CommonSettings(folds=1)
    # CosegmentationError: co-segmentation method 'common': folds is 1, expected a whole number from 2 to 10.

A text among the notes on a field is its meaning. What several values must fulfil together stands in ``__post_init__``,
which raises the error of its room.

pydantic is loaded when a value is checked for the first time: short commands check none, and it would take half of
their time.
"""

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from functools import cache, partial, wraps
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, dataclass_transform

from wss_data.errors import WssError, shown
from wss_data.errors.text import is_clean

if TYPE_CHECKING:
    from pydantic_core import ValidationError

_Kind = TypeVar("_Kind")

_WHERE: ContextVar[str] = ContextVar("where settings stand", default="")

# A ``pydantic.ConfigDict``
_STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}


@dataclass_transform(frozen_default=True)
def settings(what: str, error: type[WssError]) -> Callable[[type[_Kind]], type[_Kind]]:
    """Make a class a frozen dataclass whose values are checked whenever one is made; also by ``dataclasses.replace``.

    A whole number will do for a float, a list for a tuple; nothing else is converted: ``"3"`` and ``True`` are no
    numbers, and no number is infinite. What is refused raises ``error``; its sentence begins with ``what``.
    """

    def refused(words: str) -> WssError:
        return error(f"{_WHERE.get() or what}{words}")

    def make(kind: type[_Kind]) -> type[_Kind]:
        made: Any = dataclass(frozen=True)(kind)
        made.__pydantic_config__ = _STRICT
        names = [field.name for field in fields(made) if field.init]
        must_be_given = any(field.default is field.default_factory for field in fields(made))  # neither is there
        plain = made.__init__

        @wraps(plain)
        def checked(self: Any, /, *values: Any, **named: Any) -> None:
            if not (values or named or must_be_given):
                return plain(self)
            if len(values) > len(names):
                raise TypeError(f"{made.__name__} takes {len(names)} values, {len(values)} were given")
            given = {**dict(zip(names, values, strict=False)), **named}
            unknown = [str(name) for name in given if name not in names]
            if unknown:
                close = "".join(f" (is {name} meant?)" for name in get_close_matches(unknown[0], names, n=1))
                # Of a recipe's many options the list alone would be longer than a screen.
                known = shorten(", ".join(names), 600, placeholder=" ...")
                raise refused(f": there is no option {shown(unknown[0])}{close}. Known options: {known}.")
            from pydantic_core import ArgsKwargs, ValidationError

            # Definitions come from YAML and JSON, which know lists alone.
            arguments = ArgsKwargs((), {name: _as_tuples(value) for name, value in given.items()})
            try:
                _validator(made).validate_python(arguments, self_instance=self)
            except ValidationError as refusal:
                raise refused(f": {_sentence(made, refusal)}") from None

        made.__init__ = checked
        return made

    return make


@cache
def _validator(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validator


def unchecked(kind: type[_Kind], /, **values: Any) -> _Kind:
    """An instance of a class made by ``settings``, of values known to be right as they are; the rest are defaults."""
    made: Any = object.__new__(kind)
    vars(made).update({field.name: _default(field) for field in fields(made)}, **values)
    return made


class Rule(NamedTuple):
    """A note on a field: the range of a number, the length of a text or a list, or what is found in a text."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    strict: bool | None = None  # False: a text will do for a member of an enumeration with that value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        import pydantic

        return handler(typing.Annotated[source, pydantic.Field(**self.given)])

    @property
    def given(self) -> dict[str, Any]:
        """What the rule holds, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Expected(NamedTuple):
    """A note on a field: what is expected, where its kind and rules do not say it best."""

    words: str
    check: Callable[[Any], Any] | None = None  # returns the value to take, or raises ``ValueError``

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        schema = handler(source)
        return core_schema.no_info_after_validator_function(self.check, schema) if self.check else schema


def line(longest: int) -> Expected:
    """A note on a text: it is on one line, without control characters, of 1 to ``longest`` characters."""
    words = f"a text of 1 to {longest} characters on one line (in quotes where it would be something else)"
    return Expected(words, partial(_line, longest=longest))


def _line(value: str, longest: int) -> str:
    if not 0 < len(value) <= longest or not is_clean(value):
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
    found = []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        meaning = next((note for note in _split(hint)[1] if isinstance(note, str)), "")
        found.append(Option(field.name, expected(hint), _default(field), meaning))
    return found


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def expected(hint: Any) -> str:
    """What a value of an annotation may be, in words.

    >>> expected(typing.Annotated[int, Rule(ge=2, le=10)])
    'a whole number from 2 to 10'
    >>> expected(typing.Annotated[float, Rule(gt=0)] | None)
    'a number over 0, or nothing'
    >>> expected(typing.Literal["sgd", "adamw"])
    'sgd or adamw'
    """
    hint, notes = _split(hint)
    if said := [note.words for note in notes if isinstance(note, Expected)]:
        return said[0]
    rule = {name: value for note in notes if isinstance(note, Rule) for name, value in note.given.items()}
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [expected(part) for part in arguments if part is not types.NoneType]
        return " or ".join(parts) + (", or nothing" if types.NoneType in arguments else "")
    if origin is typing.Literal:
        return " or ".join([", ".join(map(str, arguments[:-1])), str(arguments[-1])] if arguments[1:] else arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            least = f" of at least {rule['min_length']}" if "min_length" in rule else ""
            return f"a list{least}, each {expected(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(expected(part) for part in arguments)}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(hint, getattr(hint, "__name__", str(hint))) + (_range(rule) if hint in (int, float) else "")


def _split(hint: Any) -> tuple[Any, list[Any]]:
    """An annotation without its notes, and these notes."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, []
    bare, *notes = typing.get_args(hint)
    return bare, notes


def _range(rule: Mapping[str, Any]) -> str:
    if {"ge", "le"} <= set(rule):
        return f" from {rule['ge']} to {rule['le']}"
    words = {"ge": "of at least", "gt": "over", "le": "of at most", "lt": "under"}
    said = [f"{words[name]} {rule[name]}" for name in ("ge", "gt", "le", "lt") if name in rule]
    return f" {' and '.join(said)}" if said else ""


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _sentence(kind: type, refusal: "ValidationError") -> str:
    first: Mapping[str, Any] = refusal.errors(include_url=False)[0]
    name = str(first["loc"][0])
    wanted = expected(typing.get_type_hints(kind, include_extras=True)[name])
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} is missing, expected {wanted}."
    # What a check of ours found, beside what is expected of any value.
    more = str(first.get("ctx", {}).get("error", ""))
    return f"{name} is {shown(first['input'])}, expected {wanted}{f' ({more})' if more else ''}."
