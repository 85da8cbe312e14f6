"""Asking a service at its pace, patiently, and silent about secrets."""

import logging
import random
import threading
import traceback

import pytest
from fake_service import HTML, FakeService, KeptPages, Reply
from virtual_clock import VirtualClock

from wss_data.errors import SourceUnavailable
from wss_data.retrieval.headers import retry_after
from wss_data.retrieval.sources import api as api_module
from wss_data.retrieval.sources.api import Api, Pace, Refused, Service
from wss_data.retrieval.sources.base import Forgetful
from wss_data.runtime.version import __version__

SECRET = "canary-5e1ec7ed-secret"


class Scripted(FakeService):
    """Gives the replies of a list, one a request, and then good answers."""

    def __init__(self, *replies, clock=None, **others):
        super().__init__(clock or VirtualClock(), **others)
        self.replies = list(replies)
        self.headers = []
        self.forms = []
        self.times = []

    def reply(self, path, query, form, headers):
        self.headers.append(dict(headers))
        self.forms.append(form)
        self.times.append(self.clock.monotonic())
        return self.replies.pop(0) if self.replies else Reply(200, {"good": True})


def make_api(service, pace=None, authorize=None, **how):
    return Api(Service("farm", **how), pace or Pace([], service.clock), authorize)


def ask(pace):
    with pace.turn():
        pass


def most_in_window(times, seconds):
    return max(sum(1 for other in times if start <= other < start + seconds) for start in times)


def test_no_window_ever_holds_more_requests_than_its_limit_whatever_the_latency():
    clock, dice = VirtualClock(), random.Random(1)
    pace = Pace([(5, 10.0), (12, 60.0)], clock)
    arrived = []
    for _ in range(100):
        with pace.turn():
            clock.advance(dice.choice([0.0, 0.1, 3.0]))
            arrived.append(clock.monotonic())
            clock.advance(dice.choice([0.0, 0.1, 8.0]))

    assert most_in_window(arrived, 10.0) == 5
    assert most_in_window(arrived, 60.0) == 12


def test_requests_go_out_at_once_while_the_limit_is_not_reached():
    clock = VirtualClock()
    pace = Pace([(20, 60.0)], clock)
    for _ in range(20):
        ask(pace)
    assert clock.slept == []
    ask(pace)
    assert clock.slept == [60.0]


def test_a_slow_request_counts_from_its_end_so_that_the_next_ones_are_not_too_early_there():
    clock = VirtualClock()
    pace = Pace([(1, 10.0)], clock)
    with pace.turn():
        clock.advance(9.0)
    assert pace.delay() == 10.0


def test_threads_share_one_limit():
    clock = VirtualClock()
    pace = Pace([(10, 60.0)], clock)
    times, lock = [], threading.Lock()

    def ask_often():
        for _ in range(15):
            ask(pace)
            with lock:
                times.append(clock.monotonic())

    threads = [threading.Thread(target=ask_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # 120 requests are 12 full windows, so the last of them go out after 11 waits. (A thread may look at the clock late,
    # so the times themselves say less than the total.)
    assert clock.monotonic() >= 11 * 60.0
    assert len(times) == 120


def test_nobody_goes_while_the_pace_is_held():
    clock = VirtualClock()
    pace = Pace([(20, 60.0)], clock)
    pace.hold(33.0)
    ask(pace)
    assert clock.monotonic() == 33.0


def test_the_limits_reported_in_headers_replace_those_assumed():
    clock = VirtualClock()
    pace = Pace([(100, 60.0), (10_000, 86_400.0)], clock)
    pace.note_headers({"X-RateLimit-Limit-anon_burst": "2/min", "x-ratelimit-limit-anon_sustained": "3/day"})
    ask(pace)
    ask(pace)
    assert pace.delay() == 60.0
    clock.advance(60.0)
    ask(pace)
    assert pace.delay() == 86_400.0 - 60.0


def test_what_others_used_of_a_limit_counts():
    clock = VirtualClock()
    pace = Pace([(20, 60.0)], clock)
    ask(pace)
    pace.note_headers({"X-RateLimit-Limit-anon_burst": "20/min", "X-RateLimit-Available-anon_burst": "2"})
    ask(pace)
    ask(pace)
    assert pace.delay() == 60.0


def test_the_limits_of_thumbnails_and_headers_that_cannot_be_read_are_passed_over():
    pace = Pace([(20, 60.0)], VirtualClock())
    pace.note_headers(
        {
            "X-RateLimit-Limit-anon_thumbnail": "1/min",
            "X-RateLimit-Available-anon_thumbnail": "0",
            "X-RateLimit-Limit-odd": "many/moon",
            "X-RateLimit-Available-odd": "-1",
            "X-RateLimit-Limit": "0/min",
            "X-RateLimit-Limit-shut": "0/hour",
            "X-RateLimit-Limit-trap": "99999999999/day",
            "X-RateLimit-Available-trap": "0",
        }
    )
    for _ in range(20):
        ask(pace)
    assert pace.delay() == 60.0


def test_a_request_of_an_earlier_run_counts_until_its_window_is_over():
    pace = Pace([(1, 60.0)], VirtualClock())
    pace.count_earlier(600.0)
    assert pace.delay() == 0.0
    pace.count_earlier(45.0)
    assert pace.delay() == 15.0


@pytest.mark.parametrize(
    "fault",
    [
        Reply(502, HTML),
        Reply(500, {"detail": "oh"}),
        Reply(504, HTML),
        Reply(200, HTML),
        Reply(200, b'{"results": [{"id": 1}, {"i'),
        Reply(200, b"[1, 2]"),
        Reply(0),
        Reply(429, {"detail": "slow down"}),
    ],
    ids=["502", "500", "504", "html", "broken json", "a list", "reset", "429"],
)
def test_a_passing_fault_costs_one_more_request_and_a_pause(fault):
    with Scripted(fault) as service:
        assert make_api(service).get_json(service.url + "/v1/") == {"good": True}
        assert service.requests == 2
        assert service.times[1] - service.times[0] >= 1.0


def test_the_pause_that_the_service_asks_for_is_kept_to_the_second():
    with Scripted(Reply(503, HTML, {"Retry-After": "77"}), Reply(429, {}, {"Retry-After": "120"})) as service:
        make_api(service).get_json(service.url)
        assert service.times == [0.0, 77.0, 197.0]


def test_retry_after_can_be_a_date():
    clock = VirtualClock(start=1_800_000_000.0)
    assert retry_after("Fri, 15 Jan 2027 08:00:30 GMT", clock) == 30.0
    assert retry_after("Fri, 15 Jan 2027 07:00:00 GMT", clock) == 0.0
    assert retry_after("soon", clock) is None
    assert retry_after(None, clock) is None


def test_a_service_that_asks_for_too_much_patience_is_left_after_one_request():
    with Scripted(Reply(429, {}, {"Retry-After": "7200"})) as service:
        with pytest.raises(SourceUnavailable, match=r"farm: HTTP 429 .* in 120 min, 300 s is the longest wait"):
            make_api(service).get_json(service.url)
        assert service.requests == 1
        assert service.clock.monotonic() == 0.0


def test_a_used_up_limit_of_the_day_ends_the_search_without_a_request():
    with Scripted() as service:
        api = make_api(service, Pace([(1, 86_400.0)], service.clock))
        api.get_json(service.url)
        with pytest.raises(SourceUnavailable, match=r"its limit of requests is used up; .* in 1440 min"):
            api.get_json(service.url)
        assert service.requests == 1


def test_after_five_attempts_the_service_counts_as_dead_and_the_message_says_where_and_why():
    with Scripted(*[Reply(502, HTML)] * 9) as service:
        with pytest.raises(SourceUnavailable) as caught:
            make_api(service, way_out="See the page.").get_json(service.url + "/v1/images/", {"q": "cow"})
        assert service.requests == 5
        assert str(caught.value) == (
            "farm: 127.0.0.1/v1/images/ gave no answer in 5 attempts (last: HTTP 502). Start the same command again "
            "later: it goes on where it stopped. See the page."
        )


def test_a_service_that_nobody_runs_is_reported():
    service = Scripted()
    with service:
        url = service.url
    with pytest.raises(SourceUnavailable, match=r"gave no answer in 5 attempts \(last: ConnectionError while asking\)"):
        make_api(service).get_json(url)


def test_a_service_that_hangs_is_reported():
    lock = threading.Event()

    class Hanging(Scripted):
        def reply(self, *args):
            lock.wait(10)
            return super().reply(*args)

    with Hanging() as service:
        api = make_api(service, timeout=(1.0, 0.05), pauses=(1.0,))
        with pytest.raises(SourceUnavailable, match="ReadTimeout"):
            api.get_json(service.url)
        lock.set()


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_final_after_one_request(status):
    with Scripted(Reply(status, {"detail": "No such licence."})) as service:
        with pytest.raises(Refused, match=rf"refused the request \(HTTP {status}: No such licence\.\)") as caught:
            make_api(service).get_json(service.url)
        assert caught.value.status == status
        assert service.requests == 1


def test_a_redirect_is_not_followed_so_that_no_token_leaves_for_another_host():
    with Scripted() as other, Scripted(Reply(302, b"", {"Location": other.url})) as service:
        api = make_api(service, authorize=lambda fresh: {"Authorization": f"Bearer {SECRET}"})
        with pytest.raises(Refused):
            api.get_json(service.url)
        assert other.requests == 0


def test_an_ended_token_is_replaced_once():
    asked = []

    def authorize(fresh):
        asked.append(fresh)
        return {"Authorization": f"Bearer {len(asked)}"}

    with Scripted(Reply(401, {}), Reply(200, {"good": 1}), Reply(401, {}), Reply(401, {})) as service:
        api = make_api(service, authorize=authorize)
        assert api.get_json(service.url) == {"good": 1}
        assert asked == [False, True]
        assert service.headers[1]["Authorization"] == "Bearer 2"
        with pytest.raises(Refused):
            api.get_json(service.url)
        assert service.requests == 4


def test_a_fault_after_a_fresh_token_does_not_cost_another_token():
    asked = []

    def authorize(fresh):
        asked.append(fresh)
        return {"Authorization": "Bearer 1"}

    with Scripted(Reply(401, {}), Reply(502, HTML)) as service:
        assert make_api(service, authorize=authorize).get_json(service.url) == {"good": True}
    assert asked == [False, True, False]


def test_a_line_in_netrc_does_not_replace_the_token(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WSS_CONTACT", "a@b.example")
    with Scripted() as service:
        make_api(service, authorize=lambda fresh: {"Authorization": "Bearer mine"}).get_json(service.url)
        assert service.headers[0]["Authorization"] == "Bearer mine"
        assert service.headers[0]["User-Agent"] == f"wss/{__version__} (a@b.example)"


def test_an_endless_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(api_module, "MAX_BYTES", 1000)
    with Scripted(*[Reply(200, {"text": "x" * 5000})] * 2) as service:
        api = make_api(service, pauses=(1.0,))
        with pytest.raises(SourceUnavailable, match="no answer in 2 attempts"):
            api.get_json(service.url)


@pytest.mark.parametrize(
    "replies",
    [
        [Reply(400, {"error_description": f"bad secret {SECRET} in Bearer {SECRET}"})],
        [Reply(200, f"nothing {SECRET}".encode())] * 5,
        [Reply(0)] * 5,
        [Reply(429, {"detail": SECRET}, {"Retry-After": "9999"})],
    ],
    ids=["echo", "broken", "reset", "limit"],
)
def test_what_was_sent_is_in_no_message_log_or_trace_even_if_the_service_echoes_it(replies, caplog):
    caplog.set_level(logging.DEBUG)
    with Scripted(*replies) as service:
        api = make_api(service, authorize=lambda fresh: {"Authorization": f"Bearer {SECRET}"})
        with pytest.raises(SourceUnavailable) as form:
            api.post_json(service.url, {"client_secret": SECRET})
        service.replies[:] = replies
        with pytest.raises(SourceUnavailable) as query:
            api.get_json(service.url, {"q": "cow"})
        assert service.forms[0] == {"client_secret": SECRET}
    for caught in (form, query):
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text
    assert SECRET not in repr(api)
    assert "127.0.0.1" in caplog.text


def test_a_remembered_answer_is_not_asked_again_and_its_request_still_counts():
    pages = KeptPages()
    with Scripted() as service:
        first = make_api(service, Pace([(1, 60.0)], service.clock))
        assert first.remembered(pages, "page 1", lambda: first.get_json(service.url)) == {"good": True}
        service.clock.advance(20.0)

        pace = Pace([(1, 60.0)], service.clock)
        second = make_api(service, pace)
        assert second.remembered(pages, "page 1", lambda: second.get_json(service.url)) == {"good": True}
        assert service.requests == 1
        assert pace.delay() == 40.0


def test_without_memory_every_question_is_asked_and_counted_once():
    with Scripted() as service:
        pace = Pace([(3, 60.0)], service.clock)
        api = make_api(service, pace)
        for _ in range(3):
            api.remembered(Forgetful(), "page 1", lambda: api.get_json(service.url))
        assert service.requests == 3
        assert service.clock.slept == []
        assert pace.delay() == 60.0
