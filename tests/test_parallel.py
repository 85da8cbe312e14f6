import os

import pytest

from wss_data.parallel import default_workers, map_images


def square(n: int) -> int:
    return n * n


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(map_images(square, range(20), workers=workers)) == [n * n for n in range(20)]


def test_one_worker_is_this_process_and_two_are_others():
    assert set(map_images(process_of, range(4), workers=1)) == {os.getpid()}
    assert os.getpid() not in set(map_images(process_of, range(4), workers=2))


def test_items_are_taken_as_they_are_needed():
    taken = []
    items = (taken.append(n) or n for n in range(1000))
    results = map_images(square, items, workers=1)
    assert next(results) == 0
    assert len(taken) == 1


def test_the_number_of_workers_can_be_set_for_all_commands(monkeypatch):
    monkeypatch.setenv("WSS_WORKERS", "3")
    assert default_workers() == 3
