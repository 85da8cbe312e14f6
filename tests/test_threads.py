import threading
import time

import pytest

from wss_data.runtime.threads import in_threads


def test_results_keep_the_order_of_the_items_though_the_first_is_the_slowest():
    def slow_first(number):
        time.sleep(0.05 if number == 0 else 0)
        return number * number

    assert list(in_threads(slow_first, range(6), threads=3)) == [0, 1, 4, 9, 16, 25]


def test_items_are_taken_in_the_callers_thread_and_never_more_than_ahead():
    taken = []

    def items():
        for number in range(20):
            taken.append((number, threading.current_thread()))
            yield number

    for done, result in enumerate(in_threads(lambda number: number, items(), ahead=4)):
        assert result == done and len(taken) <= done + 4
    assert {thread for _, thread in taken} == {threading.current_thread()}


def test_an_error_comes_where_its_result_would_and_the_rest_does_not_begin():
    begun = []

    def fails_at_two(number):
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    results = in_threads(fails_at_two, range(100), threads=1, ahead=5)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) < 10


def test_a_reader_that_stops_early_does_not_wait_for_the_items():
    results = in_threads(lambda number: number, iter(int, 1))
    assert next(results) == 0
    results.close()
