"""What engines check in the same way."""

from collections.abc import Iterable, Mapping, Sequence

from wss_data.cosegmentation.base import wanted_positions as wanted_positions
from wss_data.errors import CosegmentationError, shown

Range = tuple[float, float]


def check_names(method: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an option that an engine does not have.

    Args:
        method: Name of the engine.
        given: Names of the options given.
        known: Names of those that it has.

    Raises:
        CosegmentationError: At the first name that is not known.
    """
    for option in given:
        if option not in known:
            raise CosegmentationError(
                f"co-segmentation method '{method}' has no option {shown(option)}. Known options: {', '.join(known)}."
            )


def check_values(
    settings: object,
    whole_numbers: Mapping[str, Range],
    numbers: Mapping[str, Range],
    switches: Iterable[str] = (),
) -> None:
    """Refuse a setting of the wrong kind or out of its range.

    Args:
        settings: Has an attribute of each name below.
        whole_numbers: Name -> smallest and largest value.
        numbers: Likewise; whole ones will do.
        switches: Names of those that are true or false.

    Raises:
        CosegmentationError: At the first value that is wrong.
    """
    for ranges, kinds, kind in ((whole_numbers, int, "a whole number"), (numbers, (int, float), "a number")):
        for name, (low, high) in ranges.items():
            value = getattr(settings, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise CosegmentationError(
                    f"co-segmentation option {name} is {shown(value)}; {kind} from {low} to {high} is wanted."
                )
    for name in switches:
        if not isinstance(getattr(settings, name), bool):
            raise CosegmentationError(
                f"co-segmentation option {name} is {shown(getattr(settings, name))}; true or false is wanted."
            )
