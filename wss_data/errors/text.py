"""Text that came from strangers: without what would steer a terminal or turn a line around.

``clean_text`` takes that out, where a text is kept; ``visible`` shows it, where a name must stay what it is;
``CleanStream`` does that for all that a program prints.
"""

import re
from typing import IO, Any

# Marks of direction, blanks without width, and tags. Joiners (U+200C, U+200D) stay: names and emoji need them.
_INVISIBLE = "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_BREAKS = re.compile(" *[\t-\r\x1c-\x1f\x85\u2028\u2029][ \t-\r\x1c-\x1f\x85\u2028\u2029]*")
_STEERING = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")
# A whole escape sequence: without it, the letters of a colour would stay behind.
_SEQUENCE = re.compile(
    "\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]{0,1000}(?:\x07|\x1b\\\\)?|[@-_])|\x9b[0-?]*[ -/]*[@-~]"
)
_PRINTED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")
_CURSOR = re.compile("(?:[\r\n]|\x1b\\[A)*")  # what a progress bar begins with, or moves with from line to line


def clean_text(text: str) -> str:
    r"""The text on one line, without control characters, marks of direction and code points that are no characters.

    >>> clean_text("A cat,\n \x1b[31masleep\x1b[0m \u202egpj.exe")
    'A cat, asleep gpj.exe'
    """
    if text.isprintable():
        return text
    return _STEERING.sub("", _BREAKS.sub(" ", _SEQUENCE.sub("", text))).strip()


def is_clean(text: str) -> bool:
    """Whether nothing in the text steers a terminal, breaks a line, or is no character."""
    return _STEERING.search(text) is None


def visible(text: str) -> str:
    r"""The text with all that ``clean_text`` takes out shown as an escape, such as ``\x1b``; line breaks included.

    >>> visible("a\x1b[31m.jpg")
    'a\\x1b[31m.jpg'
    """
    return _STEERING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class CleanStream:
    """A text stream on which nothing steers the terminal but progress bars: the rest is shown as ``visible`` does.

    Line breaks and tabs stay. A carriage return stays where a text begins with it, as that of a progress bar does.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        moves = _CURSOR.match(text)
        start = moves.end() if moves else 0
        self._stream.write(text[:start] + _PRINTED.sub(_escape, text[start:]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
