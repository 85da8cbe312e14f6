"""Plain values from YAML (and so from JSON) that may come from anybody: what is written, and nothing that grows of it.

PyYAML's safe loader runs no code, but gives dates and sets, lets the last of two equal keys win, and lets ten lines of
aliases stand for a billion items. Here a definition is read piece by piece, so that what is not wanted ends it where it
stands.
"""

import math
from pathlib import Path
from typing import Any

import yaml

from wss_data.errors import shown
from wss_data.errors.text import is_clean
from wss_data.reading.checked import read_bytes

MAX_CHARACTERS = 256 << 10  # of a whole text; a definition of 254 classes with ten queries each has a fifth
MAX_DEPTH = 20
MAX_TEXT = 10_000  # characters of one text
MAX_NUMBER = 40  # characters of one number

_INT64 = 1 << 63
_MISSING = object()
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where PyYAML was built with it
_NUMBERS = {"tag:yaml.org,2002:int": "construct_yaml_int", "tag:yaml.org,2002:float": "construct_yaml_float"}


def plain_values(text: str) -> Any:
    """What a text of YAML says, as dicts with texts for keys, lists, texts, numbers, booleans and ``None``.

    A plain scalar is read by YAML 1.1 (``yes`` is true), but dates and times (``2020-01-01``, ``12:30``) stay texts. An
    empty document is ``None``.

    Raises:
        ValueError: If it is no YAML, too large or too deep, or holds what a definition has no use for: aliases and
            anchors, tags, a key twice or one that is no text, control characters, numbers that are not finite or of
            more than 64 bits. The message is no whole sentence: what was found, with its line.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text is wanted, found {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read")
    scalars = yaml.SafeLoader("")  # for its rules of what a word means; it reads nothing itself
    root = _Open([])
    open_ = [root]
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.DocumentStartEvent) and root.value:
                raise ValueError("it holds more than one document")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _found(event, "an alias or an anchor (& or *); write the values out")
            if isinstance(event, yaml.ScalarEvent):
                open_[-1].put(event, _scalar(event, scalars))
            elif isinstance(event, yaml.CollectionStartEvent):
                if event.tag not in (None, "!") or len(open_) > MAX_DEPTH:
                    what = f"a tag ({event.tag[:40]!r})" if event.tag else f"lists more than {MAX_DEPTH} deep"
                    raise _found(event, what)
                inner = _Open({} if isinstance(event, yaml.MappingStartEvent) else [])
                open_[-1].put(event, inner.value)
                open_.append(inner)
            elif isinstance(event, yaml.CollectionEndEvent):
                open_.pop()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise ValueError(f"line {mark.line + 1}: {what}" if mark else str(what)) from error
    return root.value[0] if root.value else None


def read_plain_file(path: Path) -> Any:
    """``plain_values`` of a file in UTF-8.

    Raises:
        ValueError: As there, or it is no plain file or no UTF-8.
        OSError: If it cannot be read.
    """
    try:
        # More than four bytes a character are too many characters, too; without the mark that Windows puts first.
        return plain_values(read_bytes(path, 4 * MAX_CHARACTERS).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 (byte {error.start:,})") from error


class _Open:
    """A list or mapping that is being read."""

    def __init__(self, value: Any) -> None:
        self.value, self._key = value, _MISSING

    def put(self, event: yaml.Event, item: Any) -> None:
        """Take what comes next: an item, a key, or a key's value."""
        if isinstance(self.value, list):
            self.value.append(item)
        elif self._key is not _MISSING:
            self.value[self._key], self._key = item, _MISSING
        elif not isinstance(item, str):
            raise _found(event, f"the key {item!r}, a word is wanted (yes, no, on, off and numbers need quotes)")
        elif item in self.value:
            raise _found(event, f"the key {item[:40]!r} for the second time")
        else:
            self._key = item


def _scalar(event: yaml.ScalarEvent, scalars: yaml.SafeLoader) -> Any:
    """The text, number, boolean or ``None`` that a scalar stands for."""
    value = event.value
    if event.tag not in (None, "!"):
        raise _found(event, f"a tag ({event.tag[:40]!r})")
    if len(value) > MAX_TEXT:
        raise _found(event, f"a text of {len(value):,} characters, at most {MAX_TEXT:,} are read")
    if not is_clean(value.replace("\n", "").replace("\t", "")):
        raise _found(event, f"a control character in {shown(value)}")
    if not event.implicit[0]:
        return value
    tag = scalars.resolve(yaml.ScalarNode, value, (True, False))
    node = yaml.ScalarNode(tag, value)
    if tag == "tag:yaml.org,2002:null":
        return None
    if tag == "tag:yaml.org,2002:bool":
        return scalars.construct_yaml_bool(node)
    if tag not in _NUMBERS or ":" in value:  # 12:30 is a time or a host's port, not 750
        return value
    if len(value) > MAX_NUMBER:
        raise _found(event, f"a number of {len(value):,} characters")
    number = getattr(scalars, _NUMBERS[tag])(node)
    if isinstance(number, float) and not math.isfinite(number):
        raise _found(event, f"{value}, which is no number that can be used")
    if isinstance(number, int) and not -_INT64 <= number < _INT64:
        raise _found(event, f"{value}, a whole number of more than 64 bits")
    return number


def _found(event: yaml.Event, what: str) -> ValueError:
    return ValueError(f"line {event.start_mark.line + 1}: {what}")
