"""Several processes that train one network, as torchrun starts them.

Each process sees its own part of every batch. The first one alone opens the database, decides what the run folder
holds, and writes; what the others must know is sent to them as plain values.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wss_data.errors import WssError

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is, in all and on this machine; ``local_rank`` is the number of its GPU."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process reads the database and writes the files."""
        return self.rank == 0


def place() -> Place:
    """Where torchrun has put this process; the only one where it was started in another way."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


def only_alone(what: str) -> None:
    """Raise ``WssError`` if torchrun has started several processes for something that one process does."""
    here = place()
    if here.world > 1:
        raise WssError(
            f"{what} runs in one process, torchrun has started {here.world}. Only wss-train generator and final train "
            "in several: start this command without torchrun."
        )


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, in all of them.

    Args:
        make: Called in the first process only. What it returns must be picklable: it goes to the others.

    Raises:
        WssError: In every process, if ``make`` failed in the first, where the error is the one that ``make`` raised.
    """
    here = place()
    if here.world == 1:
        return make()
    import torch.distributed as distributed

    _join(here)
    # The value, or why there is none: the others must not wait for ever.
    message: list[tuple[T | None, str]] = [(None, "")]
    try:
        if here.first:
            message = [(make(), "")]
    except BaseException as error:
        message = [(None, str(error) or type(error).__name__)]
        raise
    finally:
        distributed.broadcast_object_list(message, src=0)
    value, failure = message[0]
    if failure:
        raise WssError(f"process {here.rank} stops with the first one: {failure}")
    return value  # type: ignore[return-value]


def _join(here: Place) -> None:
    """Meet the other processes, unless that was done before."""
    import torch
    import torch.distributed as distributed

    if distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank)
        # gloo carries plain values, nccl gradients.
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
