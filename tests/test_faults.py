"""Every case of the fault server, through the whole of step 1: search, download, decode, journal, store."""

import json
import subprocess
import time

import pytest
from crawl import environment, stored, write_plan
from fault_server import CASES, FaultProcess

from wss_data.imaging.images import read_image
from wss_data.retrieval.journal import Journal

DEADLINE_S = 12
"""For one image. A third of it is what an answer may take: a busy machine must not make a sound image repeat."""


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """How every image ended, the server, the seconds it took, and the MiB by which the crawler grew."""
    folder = tmp_path_factory.mktemp("faults")
    with FaultProcess() as server:
        urls = {name: server.url(name) for name in CASES}
        times = {"deadline_s": DEADLINE_S, "backoff_s": 0.3}
        download = {"allow_hosts": server.hosts, "connections": 32, "per_host": 2, **times}
        command = write_plan(folder / "plan.json", folder, urls, download=download, workers=2)
        start = time.monotonic()
        result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        seconds = time.monotonic() - start
        with Journal(folder / "journal.sqlite") as journal:
            ended = {entry.source_id: entry for entry in journal.entries()}
        yield ended, server, seconds, json.loads(result.stdout)["grew_by_mib"], stored(folder)


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_each_fault_ends_as_it_should(crawl, name):
    ended, server, *_ = crawl
    case = CASES[name]
    entry = ended[name]
    # The same bytes twice are one image of the class.
    status = "stored" if entry.reason == "duplicate" else entry.status
    assert (status, entry.detail) == (case.expected, entry.detail)
    assert case.expected == "stored" or entry.reason in case.reasons | {"host_given_up"}, entry.detail
    assert server.requests(name) <= case.requests_at_most
    if case.wait_s and len(server.times(name)) > 1:
        first, second = server.times(name)[:2]
        assert second - first >= case.wait_s


def test_all_faults_together_take_the_time_of_a_few_and_no_memory(crawl):
    _, _, seconds, memory, _ = crawl
    assert seconds < 5 * DEADLINE_S
    assert memory < 100


def test_what_is_stored_is_what_was_sent_whole(crawl):
    ended, *_, rows = crawl
    assert len(rows) == sum(entry.status == "stored" for entry in ended.values())
    assert all(max(read_image(path).shape) <= 340 for _, _, path in rows)
