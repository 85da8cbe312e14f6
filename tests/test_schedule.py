from hypothesis import given, settings
from hypothesis import strategies as st

from wss_data.retrieval.schedule import HostSchedule


def started(schedule, now=0.0):
    items = []
    while found := schedule.start(now):
        items.append(found)
    return items


def test_hosts_take_turns_and_no_host_has_more_than_its_connections():
    schedule = HostSchedule(connections=10, per_host=2)
    for number in range(4):
        schedule.add("a", f"a{number}")
        schedule.add("b", f"b{number}")
    assert [item for _, item in started(schedule)] == ["a0", "b0", "a1", "b1"]
    schedule.finish("a")
    assert started(schedule) == [("a", "a2")]
    assert len(schedule) == 3


def test_all_hosts_together_have_no_more_than_all_connections():
    schedule = HostSchedule(connections=3, per_host=2)
    for host in "abcd":
        schedule.add(host, host)
    assert len(started(schedule)) == 3
    assert schedule.next_start(0.0) is None


def test_a_host_with_a_stricter_rule_of_its_own_keeps_it():
    schedule = HostSchedule(connections=10, per_host=6)
    for number in range(5):
        schedule.add("upload.wikimedia.org", number)
    assert len(started(schedule)) == 2


def test_a_pause_lies_between_two_starts_from_one_host():
    schedule = HostSchedule(connections=10, per_host=5, pause=2.0)
    schedule.add("a", 1)
    schedule.add("a", 2)
    assert started(schedule, now=10.0) == [("a", 1)]
    assert schedule.next_start(10.5) == 1.5
    assert started(schedule, now=12.0) == [("a", 2)]


def test_a_host_that_asks_for_a_longer_pause_gets_it():
    schedule = HostSchedule(connections=10, per_host=5, pause=1.0)
    schedule.slow_down("a", 5.0)
    for number in range(2):
        schedule.add("a", number)
    assert len(started(schedule, now=1.0)) == 1
    assert started(schedule, now=5.9) == []
    assert len(started(schedule, now=6.0)) == 1


def test_a_host_that_asks_to_wait_is_left_alone_and_the_others_go_on():
    schedule = HostSchedule(connections=10, per_host=5)
    schedule.add("a", 1)
    schedule.add("b", 2)
    schedule.hold("a", until=30.0)
    assert started(schedule, now=1.0) == [("b", 2)]
    assert schedule.next_start(1.0) == 29.0
    assert started(schedule, now=30.0) == [("a", 1)]


def test_an_item_for_later_does_not_keep_the_others_of_its_host_waiting():
    schedule = HostSchedule(connections=10, per_host=1)
    schedule.add("a", "second attempt", not_before=5.0)
    schedule.add("a", "first attempt")
    assert started(schedule, now=1.0) == [("a", "first attempt")]
    schedule.finish("a")
    assert schedule.next_start(2.0) == 3.0
    assert started(schedule, now=5.0) == [("a", "second attempt")]


def test_giving_a_host_up_returns_what_waited_for_it():
    schedule = HostSchedule(connections=1, per_host=1)
    schedule.add("a", 1)
    schedule.add("a", 2, not_before=9.0)
    assert schedule.give_up("a") == [1, 2]
    assert len(schedule) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=40), st.integers(1, 4), st.integers(1, 3)
)
def test_whatever_comes_everything_is_started_once_and_the_limits_hold(items, connections, per_host):
    schedule = HostSchedule(connections, per_host)
    for number, (host, delay) in enumerate(items):
        schedule.add(host, number, not_before=float(delay))
    running, done, now = [], [], 0.0
    while len(schedule) or running:
        running += started(schedule, now)
        assert len(running) <= connections
        assert all(sum(host == h for h, _ in running) <= per_host for host in "abc")
        wait = schedule.next_start(now)
        if running:
            host, item = running.pop(0)
            schedule.finish(host)
            done.append(item)
        elif wait is not None:
            now += max(wait, 0.1)
    assert sorted(done) == list(range(len(items)))
