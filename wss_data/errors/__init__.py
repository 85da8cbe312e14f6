"""What can go wrong, as one tree below ``WssError``.

The message of each is one complete sentence for the user: what was found, what was wanted, where, and the way out. The
command line prints it and exits with status 2; it never shows a traceback for one of these.
"""

import reprlib

from wss_data.errors.names import printable

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 60


def shown(value: object) -> str:
    """A value that was found, short enough for a sentence whatever it is: never all of something large.

    >>> shown("cat"), shown(2.5)
    ("'cat'", '2.5')
    >>> len(shown([["x" * 1000] * 1000] * 1000)) <= 60
    True
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


class WssError(Exception):
    """Base of every error that this project raises on purpose; its words are printable and on one line."""

    def __init__(self, *words: object) -> None:
        # They go to screens, tables and databases, with bytes of file names and colours of a terminal in them.
        super().__init__(*(_one_line(word) if isinstance(word, str) else word for word in words))


def _one_line(words: str) -> str:
    return printable(" ".join(line.strip() for line in words.split("\n")) if "\n" in words else words)


class SpecError(WssError):
    """A dataset definition is wrong."""


class SourceError(WssError):
    """A source of images or of labels cannot deliver, such as a folder that is missing."""


class SourceUnavailable(SourceError):
    """A source cannot deliver for want of a key or of its service; other sources can go on without it."""


class _ReasonedError(WssError):
    """An error about one file, with a reason such as ``truncated``, which becomes the tag ``dropped:<reason>``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Exceptions with more than one argument do not survive pickling between processes by themselves.
        return type(self), (self.reason, str(self))


class DownloadError(_ReasonedError):
    """One address gave no file."""

    def __init__(
        self,
        reason: str,
        message: str,
        transient: bool = False,  # whether the same request may succeed later
        retry_after: float | None = None,  # seconds that the server asked us to wait
        opt_outs: tuple[str, ...] = (),  # signals that forbade it, such as X-Robots-Tag: noai
        host: str | None = None,  # host or host:port that it is due to, where another one redirected to it
    ) -> None:
        super().__init__(reason, message)
        self.transient, self.retry_after, self.opt_outs, self.host = transient, retry_after, opt_outs, host

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.reason, str(self), self.transient, self.retry_after, self.opt_outs, self.host)


class ImageError(_ReasonedError):
    """One file is no usable image."""


class MaskError(_ReasonedError):
    """One file is no usable mask."""


class CosegmentationError(WssError):
    """A group cannot be co-segmented."""


class WorkerError(WssError):
    """Worker processes or a cluster are not to be had, or an item kills them."""


class StoreError(WssError):
    """The dataset or its database is not as asked."""


class BusyError(StoreError):
    """Another process works on the dataset, run folder or output folder."""


class OutputError(WssError):
    """Something that this program did not write stands where a result should go."""


class RecipeError(WssError):
    """A training recipe is wrong."""


class TrainingDataError(WssError):
    """A dataset cannot teach: no kept image, or labels are missing."""


class StaleMasksError(TrainingDataError):
    """Masks were made from other images or labels than the dataset has now."""


class CheckpointError(WssError):
    """A checkpoint is truncated, foreign, or made for other classes."""
