import hashlib
import itertools
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from crawl import environment, stored, write_plan
from web_server import WebServer, jpeg, photo, picture, refusal

from wss_data.errors import DownloadError, SourceError, SourceUnavailable
from wss_data.imaging.images import encode_jpeg, read_image, write_jpeg
from wss_data.records import Provenance
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.retrieval.fetch import Fetcher
from wss_data.retrieval.journal import Journal, secret_of
from wss_data.retrieval.retrieve import WINDOW, Manner, retrieve
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Hit, SourceState
from wss_data.spec import DownloadSpec, SourceSpec, spec_from_dict

SPEC = {"name": "zoo", "classes": ["cat", "cow"], "longest_side": 64}


@pytest.fixture
def photos(tmp_path):
    """Two cats, one of them twice, a text that says it is a cat, half a cow and a whole one."""
    folder = tmp_path / "photos"
    write_jpeg(photo(1), folder / "cat" / "1.jpg")
    write_jpeg(photo(2), folder / "cat" / "2.jpg")
    write_jpeg(photo(2), folder / "cat" / "again.jpg")
    (folder / "cat" / "text.jpg").write_text("not found")
    write_jpeg(photo(3), folder / "cow" / "1.jpg")
    half = (folder / "cow" / "1.jpg").read_bytes()
    (folder / "cow" / "half.jpg").write_bytes(half[: len(half) // 2])
    return folder


class Database(list):
    """Takes records as the store does: a (class, sha256) once."""

    def add(self, records):
        known = {(r.class_name, r.sha256) for r in self}
        self.extend(r for r in records if (r.class_name, r.sha256) not in known)

    @property
    def ids(self):
        return [record.provenance.source_id for record in self]


def run(source, tmp_path, database, limit=None, workers=1, strict=False, **spec):
    sources = source if isinstance(source, list) else [source]
    spec = spec_from_dict({**SPEC, **spec, "sources": [s.name for s in sources]})
    parts = [(s, SourceSpec(s.name, limit)) for s in sources]
    with Journal(tmp_path / "journal.sqlite") as journal:
        done = retrieve(
            spec, parts, tmp_path / "images", journal, database.add, Manner(workers, strict, progress=False)
        ).done
        return done, journal.dropped()


def folder_source(photos):
    return make_source("folder", {"path": photos})


def test_every_search_result_ends_as_a_stored_image_or_a_counted_drop(photos, tmp_path):
    database = Database()
    done, dropped = run(folder_source(photos), tmp_path, database)
    assert done == 6
    assert dropped == {"cat": {"duplicate": 1, "unreadable": 1}, "cow": {"truncated": 1}}
    assert database.ids == ["cat/1.jpg", "cat/2.jpg", "cow/1.jpg"]
    assert {r.class_name for r in database} == {"cat", "cow"}


def test_a_record_says_where_the_image_is_how_large_it_was_and_where_it_came_from(photos, tmp_path):
    database = Database()
    run(folder_source(photos), tmp_path, database)
    record = database[0]
    assert record.path == tmp_path / "images" / "cat" / f"{record.sha256[:20]}.jpg"
    assert (record.original_size, record.size) == ((160, 120), (64, 48))
    assert read_image(record.path).shape == (48, 64, 3)
    assert record.provenance.source == "folder"
    assert record.provenance.image_url.endswith("photos/cat/1.jpg")
    assert record.provenance.retrieved_at is not None


def test_the_second_run_reads_nothing_and_a_new_image_is_picked_up(photos, tmp_path):
    database = Database()
    run(folder_source(photos), tmp_path, database)
    assert run(folder_source(photos), tmp_path, database)[0] == 0
    write_jpeg(photo(9), photos / "cow" / "new.jpg")
    assert run(folder_source(photos), tmp_path, database)[0] == 1
    assert len(database) == 4


def test_a_batch_that_was_stored_but_not_noted_is_stored_once(photos, tmp_path):
    database = Database()

    class Killed(Exception):
        pass

    class DyingDatabase(Database):
        def add(self, records):
            database.add(records)
            raise Killed

    with pytest.raises(Killed):
        run(folder_source(photos), tmp_path, DyingDatabase())
    run(folder_source(photos), tmp_path, database)
    assert database.ids == ["cat/1.jpg", "cat/2.jpg", "cow/1.jpg"]


def test_an_image_that_went_from_the_disk_before_it_was_stored_is_read_again(photos, tmp_path):
    class DeadDatabase(Database):
        def add(self, records):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        run(folder_source(photos), tmp_path, DeadDatabase())
    for path in (tmp_path / "images" / "cat").iterdir():
        path.unlink()
    database = Database()
    run(folder_source(photos), tmp_path, database)
    assert database.ids == ["cat/1.jpg", "cat/2.jpg", "cow/1.jpg"]
    assert all(record.path.is_file() for record in database)


def test_worker_processes_give_the_same_records_as_one_process(photos, tmp_path):
    alone, together = Database(), Database()
    run(folder_source(photos), tmp_path / "alone", alone)
    run(folder_source(photos), tmp_path / "together", together, workers=2)
    assert [(r.sha256, r.phash, r.size) for r in alone] == [(r.sha256, r.phash, r.size) for r in together]


def test_the_limit_counts_for_each_class(photos, tmp_path):
    database = Database()
    run(folder_source(photos), tmp_path, database, limit=1)
    assert [r.class_name for r in database] == ["cat", "cow"]


def test_a_class_without_a_folder_is_refused_with_the_folders_found(photos, tmp_path):
    (photos / "cow").rename(photos / "cattle")
    with pytest.raises(SourceError, match=r"class 'cow' has no folder. Folders found in .*: cat, cattle"):
        run(folder_source(photos), tmp_path, Database())


class Web:
    """A source that lists addresses of a local server: for each class, path -> extra fields of the hit."""

    local = False

    def __init__(self, server, results, name="web", ready="ready", error=None, delays=()):
        self.name, self.server, self.results = name, server, results
        self.ready, self.error = ready, error
        self.searches = 0

    def state(self):
        return SourceState(self.ready, "set WEB_KEY")

    def search(self, wanted, limit, pages):
        self.searches += 1
        results = self.results.get(wanted.name, [])
        listed = results.items() if isinstance(results, dict) else [(path, {}) for path in results]
        for path, known in list(listed)[:limit]:
            url = self.server.url(path)
            yield Hit(
                wanted.name, Provenance(self.name, path, image_url=url, author=known.pop("author", None)), **known
            )
        if self.error:
            raise self.error


def web_run(server, source, tmp_path, database, **options):
    download = {"allow_hosts": [server.host], "backoff_s": 0.01, **options.pop("download", {})}
    return run(source, tmp_path, database, download=download, **options)


def serve(pages, address="127.0.0.1"):
    """A server of ``pages``: path -> answer, or function of the number of the request."""
    return WebServer(lambda path, count: pages[path](count) if callable(pages[path]) else pages[path], address)


def test_images_of_the_web_are_stored_in_the_order_of_the_search_whoever_answers_first(tmp_path):
    def slow(count):
        time.sleep(0.3)
        return picture(jpeg(1))

    with serve({"/1": slow, "/2": picture(jpeg(2)), "/3": picture(jpeg(3))}) as server:
        database = Database()
        assert web_run(server, Web(server, {"cat": ["/1", "/2"], "cow": ["/3"]}), tmp_path, database) == (3, {})
    assert database.ids == ["/1", "/2", "/3"]


def test_what_may_pass_is_asked_for_again_and_what_is_final_is_not(tmp_path):
    pages = {
        "/busy once": lambda n: refusal(503) if n == 1 else picture(jpeg(1)),
        "/always busy": refusal(500),
        "/gone": refusal(404),
        "/forbidden": refusal(403),
    }
    pages = {path.replace(" ", "-"): answer for path, answer in pages.items()}
    with serve(pages) as server:
        database = Database()
        done, dropped = web_run(server, Web(server, {"cat": list(pages)}), tmp_path, database)
        assert done == 4
        assert dropped == {"cat": {"server_error": 1, "gone": 1, "refused": 1}}
        assert server.pictures_asked() == {"/busy-once": 2, "/always-busy": 3, "/gone": 1, "/forbidden": 1}
    assert database.ids == ["/busy-once"]


def test_only_what_failed_is_asked_for_again_when_that_is_wanted(tmp_path):
    pages = {
        "/1": picture(jpeg(1)),
        "/gone": refusal(404),
        "/busy": lambda n: refusal(500) if n <= 3 else picture(jpeg(9)[:-200]),
    }
    with serve(pages) as server:
        web_run(server, Web(server, {"cat": list(pages)}), tmp_path, Database())
        with Journal(tmp_path / "journal.sqlite") as journal:
            assert journal.try_again(["failed"]) == 1
        _, dropped = web_run(server, Web(server, {"cat": list(pages)}), tmp_path, Database())
        assert server.pictures_asked() == {"/1": 1, "/gone": 1, "/busy": 4}
    assert dropped == {"cat": {"gone": 1, "truncated": 1}}


def test_a_host_that_asks_to_wait_is_asked_again_no_sooner(tmp_path):
    asked = []

    def busy(count):
        asked.append(time.monotonic())
        return refusal(429, Retry_After="1") if count == 1 else picture(jpeg(1))

    with serve({"/1": busy}) as server:
        database = Database()
        web_run(server, Web(server, {"cat": ["/1"]}), tmp_path, database)
    assert asked[1] - asked[0] >= 1.0
    assert database.ids == ["/1"]


def test_a_host_that_asks_to_wait_for_a_year_is_given_up_and_the_rest_not_asked(tmp_path):
    pages = {f"/{n}": refusal(429, Retry_After="31536000") for n in range(20)}
    with serve(pages) as server:
        options = {"download": {"per_host": 1}}
        _, dropped = web_run(server, Web(server, {"cat": list(pages), "cow": ["/0"]}), tmp_path, Database(), **options)
        assert sum(server.pictures_asked().values()) == 1
    assert dropped == {"cat": {"rate_limited": 1, "host_given_up": 19}, "cow": {"host_given_up": 1}}


def test_a_host_that_only_fails_is_given_up_for_this_run(tmp_path):
    pages = {f"/{n}": refusal(500) for n in range(40)}
    with serve(pages) as server:
        options = {"download": {"per_host": 1, "attempts": 1}}
        _, dropped = web_run(server, Web(server, {"cat": list(pages)}), tmp_path, Database(), **options)
        assert sum(server.pictures_asked().values()) == 10
    assert dropped == {"cat": {"server_error": 10, "host_given_up": 30}}


def test_a_host_behind_which_another_fails_is_not_blamed_and_goes_on_with_its_own_images(tmp_path):
    with serve({f"/{n}": refusal(500) for n in range(40)}, address="127.0.0.2") as behind:
        led_on = {f"/{n}": refusal(302, Location=f"http://{behind.host}/{n}") for n in range(20)}
        own = {f"/own{n}": picture(jpeg(n)) for n in range(3)}
        with serve({**led_on, **own}) as server:
            download = {"per_host": 1, "attempts": 1, "allow_hosts": [server.host, behind.host]}
            database = Database()
            source = Web(server, {"cat": [*led_on, *own]})
            _, dropped = web_run(server, source, tmp_path, database, download=download)
        assert sum(behind.pictures_asked().values()) == 10, "given up after ten failures in a row"
    assert dropped == {"cat": {"server_error": 10, "host_given_up": 10}}
    assert database.ids == list(own)


def test_a_circle_of_redirects_and_failures_of_its_own_are_a_hosts_own_fault():
    with serve({"/good": picture(jpeg(1))}, address="127.0.0.2") as behind:
        pages = {
            "/circle": refusal(302, Location="/circle"),
            "/fails": refusal(500),
            "/leads": refusal(302, Location=f"http://{behind.host}/missing"),
        }
        with serve(pages) as server, Fetcher(DownloadSpec(allow_hosts=(server.host, behind.host))) as fetcher:
            blamed = {}
            for path in pages:
                with pytest.raises(DownloadError) as error:
                    fetcher.fetch(f"http://{server.host}{path}")
                blamed[path] = error.value.host
    assert blamed == {"/circle": None, "/fails": None, "/leads": behind.host}


def test_the_pause_that_robots_txt_asks_for_is_kept_and_a_pause_of_an_hour_is_not_waited_for(tmp_path):
    for delay, asked in (("0.4", 3), ("3600", 1)):
        times = []

        def answer(path, count, delay=delay, times=times):
            if path == "/robots.txt":
                return 200, {"Content-Type": "text/plain"}, f"User-agent: *\nCrawl-delay: {delay}\n".encode()
            times.append(time.monotonic())
            return picture(jpeg(int(path[1:])))

        with WebServer(answer) as server:
            source = Web(server, {"cat": ["/1", "/2", "/3"]})
            web_run(server, source, tmp_path / delay, Database(), download={"per_host": 1})
        assert len(times) == asked
        assert all(later - earlier >= 0.39 for earlier, later in itertools.pairwise(times[1:]))


def test_an_image_behind_an_opt_out_is_asked_for_once_whatever_class_wants_it(tmp_path):
    opted_out = picture(jpeg(1), **{"X-Robots-Tag": "noai"})
    with serve({"/1": opted_out}) as server:
        source = Web(server, {"cat": ["/1"], "cow": ["/1"]})
        _, dropped = web_run(server, source, tmp_path, Database())
        with Journal(tmp_path / "journal.sqlite") as journal:
            assert journal.try_again(["failed", "dropped"]) == 0
            recorded = [entry.provenance.opt_outs for entry in journal.entries("cat")]
        web_run(server, source, tmp_path, Database())
        assert server.pictures_asked() == {"/1": 1}
    assert dropped == {"cat": {"opted_out": 1}, "cow": {"opted_out": 1}}
    assert recorded == [("X-Robots-Tag: noai",)]


def test_a_finished_search_is_not_repeated_unless_the_question_changed(tmp_path):
    with serve({"/1": picture(jpeg(1)), "/2": picture(jpeg(2))}) as server:
        source = Web(server, {"cat": ["/1", "/2"]})
        database = Database()
        web_run(server, source, tmp_path, database, limit=1)
        web_run(server, source, tmp_path, database, limit=1)
        assert (source.searches, database.ids) == (2, ["/1"])  # once for each class
        web_run(server, source, tmp_path, database, limit=2)
        assert (source.searches, database.ids) == (4, ["/1", "/2"])
        assert server.pictures_asked() == {"/1": 1, "/2": 1}


def test_a_source_without_its_key_is_left_out_and_the_others_go_on(tmp_path, caplog):
    with serve({"/1": picture(jpeg(1))}) as server:
        sources = [Web(server, {"cat": ["/1"]}), Web(server, {"cat": ["/2"]}, name="keyed", ready="needs")]
        database = Database()
        web_run(server, sources, tmp_path, database)
    assert database.ids == ["/1"]
    assert "source 'keyed' is left out: set WEB_KEY" in caplog.text


def test_a_source_that_dies_in_its_search_keeps_what_it_found_and_is_asked_again_next_time(tmp_path):
    with serve({"/1": picture(jpeg(1)), "/2": picture(jpeg(2))}) as server:
        dying = Web(server, {"cat": ["/1"]}, error=SourceUnavailable("the service does not answer"))
        other = Web(server, {"cat": ["/2"]}, name="other")
        database = Database()
        web_run(server, [dying, other], tmp_path, database)
        assert sorted(database.ids) == ["/1", "/2"]
        assert dying.searches == 1
        web_run(server, [dying, other], tmp_path, database)
        assert (dying.searches, other.searches) == (2, 2)


def test_without_any_source_that_can_be_asked_there_is_an_error_that_names_each(tmp_path):
    refused = pytest.raises(SourceUnavailable, match=r"none of the definition's sources.* web: set WEB_KEY")
    with serve({}) as server, refused:
        web_run(server, Web(server, {}, ready="needs"), tmp_path, Database())


def test_a_strict_run_refuses_a_source_that_cannot_be_asked(tmp_path):
    with serve({"/1": picture(jpeg(1))}) as server:
        sources = [Web(server, {"cat": ["/1"]}), Web(server, {}, name="keyed", ready="needs")]
        with pytest.raises(SourceUnavailable, match="set WEB_KEY"):
            web_run(server, sources, tmp_path, Database(), strict=True)


def test_a_search_that_breaks_off_for_no_known_reason_leaves_its_source_out_and_tells_no_secret(tmp_path, caplog):
    with serve({"/1": picture(jpeg(1)), "/2": picture(jpeg(2))}) as server:
        broken = Web(server, {"cat": ["/1"]}, name="broken", error=KeyError("api_key=secret"))
        database = Database()
        web_run(server, [broken, Web(server, {"cat": ["/2"]})], tmp_path, database)
    assert sorted(database.ids) == ["/1", "/2"]
    assert "source 'broken' is left out: its search broke off (KeyError)" in caplog.text
    assert "secret" not in caplog.text


def test_any_number_of_results_that_must_not_be_asked_for_does_not_end_a_class_early(tmp_path):
    with serve({"/1": picture(jpeg(1))}) as server:
        with Journal(tmp_path / "journal.sqlite") as journal:
            journal.remember_forgotten("author", secret_of("Jane"), "asked")
        listed = {f"/hers-{n}": {"author": "Jane"} for n in range(2 * WINDOW)} | {"/1": {}}
        database = Database()
        web_run(server, Web(server, {"cat": listed}), tmp_path, database)
        assert server.pictures_asked() == {"/1": 1}
    assert database.ids == ["/1"]


def test_what_was_forgotten_is_not_asked_for_by_address_by_author_or_by_bytes(tmp_path):
    with serve({f"/{n}": picture(jpeg(n)) for n in range(4)}) as server:
        with Journal(tmp_path / "journal.sqlite") as journal:
            journal.remember_forgotten("url", secret_of(server.url("/0")), "asked")
            journal.remember_forgotten("author", secret_of("Jane"), "asked")
            journal.remember_forgotten("sha256", hashlib.sha256(jpeg(2)).hexdigest(), "asked")
        database = Database()
        source = Web(server, {"cat": {"/0": {}, "/1": {"author": "JANE"}, "/2": {}, "/3": {}}})
        _, dropped = web_run(server, source, tmp_path, database)
        assert server.pictures_asked() == {"/2": 1, "/3": 1}
    assert dropped == {"cat": {"forgotten": 3}}
    assert database.ids == ["/3"]
    assert len(list((tmp_path / "images" / "cat").iterdir())) == 1


def test_an_image_that_is_not_the_expected_one_is_dropped_and_a_new_encoding_of_it_is_stored(tmp_path):
    expected = {
        "expected_sha256": hashlib.sha256(jpeg(1)).hexdigest(),
        "expected_phash": perceptual_hash(photo(1)),
    }
    pages = {
        "/same": picture(jpeg(1)),
        "/encoded-anew": picture(encode_jpeg(photo(1), quality=80)),
        "/another": picture(jpeg(2)),
    }
    with serve(pages) as server:
        database = Database()
        source = Web(server, {"cat": {path: dict(expected) for path in pages}})
        _, dropped = web_run(server, source, tmp_path, database)
    assert database.ids == ["/same", "/encoded-anew"]
    assert dropped == {"cat": {"changed": 1}}
    assert len(list((tmp_path / "images" / "cat").iterdir())) == 2


@pytest.mark.parametrize(("limit", "told"), [(200_000, "File too large"), (500, "the journal cannot be written")])
def test_a_full_disk_stops_the_run_with_an_error_and_leaves_no_half_image(tmp_path, limit, told):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    with serve({f"/{n}": picture(encode_jpeg(noise)) for n in range(4)}) as server:
        urls = {f"{n}": server.url(f"/{n}") for n in range(4)}
        options = {"longest_side": 640, "download": {"allow_hosts": [server.host]}}
        command = write_plan(tmp_path / "plan.json", tmp_path / "crawl", urls, file_limit=limit, **options)
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
        assert result.returncode != 0
        assert told in result.stderr
        assert list((tmp_path / "crawl").rglob("*.jpg")) == []

        write_plan(tmp_path / "plan.json", tmp_path / "crawl", urls, **options)
        subprocess.run(command, check=True, env=environment())
        assert len(list((tmp_path / "crawl").rglob("*.jpg"))) == 1


def crawl_with_kills(tmp_path, images, kills, delay_s, seed=0):
    """Crawl ``images`` addresses, a fifth of them faulty, killed at random moments; returns what to check.

    The server takes ``delay_s`` for an answer, so that there is a crawl to kill as often as that.
    """
    chance = random.Random(seed)
    faults = {str(n): chance.choice(["gone", "busy once", "broken", "html"]) for n in range(0, images, 5)}

    def answer(path, count):
        time.sleep(delay_s)
        match faults.get(path[1:]):
            case "gone":
                return refusal(404)
            case "busy once" if count == 1:
                return refusal(503)
            case "broken":
                return picture(jpeg(int(path[1:]))[:-200])
            case "html":
                return 200, {"Content-Type": "text/html"}, b"<html>"
        return picture(jpeg(int(path[1:]))) if path != "/robots.txt" else refusal(404)

    with WebServer(answer) as server:
        command = write_plan(
            tmp_path / "plan.json",
            tmp_path / "crawl",
            {str(n): server.url(f"/{n}") for n in range(images)},
            longest_side=64,
            download={"allow_hosts": [server.host], "backoff_s": 0.02, "per_host": 16},
        )
        killed = 0
        while True:
            process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
            try:
                # Start-up takes most of a second; kills fall before, into and after it.
                process.wait(timeout=chance.uniform(0.7, 2.2) if killed < kills else 300)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        assert process.returncode == 0
        assert killed == kills
        return faults, server.pictures_asked()


def check_crawl(tmp_path, images, faults, requests, killed):
    folder = tmp_path / "crawl"
    good = {str(n) for n in range(images)} - {key for key, fault in faults.items() if fault != "busy once"}
    rows = stored(folder)
    assert sorted(row[1] for row in rows) == sorted(good), "lost, doubled or made up"
    files = sorted(path for path in folder.rglob("*.jpg") if not path.name.startswith(".writing-"))
    assert [str(path) for path in files] == sorted(row[2] for row in rows)
    for path in files:
        assert read_image(path).shape == (48, 64, 3)
    with Journal(folder / "journal.sqlite") as journal:
        ended = [entry.status for entry in journal.entries()]
    assert len(ended) == images
    assert set(ended) == {"stored", "dropped"}
    needed = {f"/{key}": 2 if fault == "busy once" else 1 for key, fault in faults.items()}
    again = sum(count - needed.get(path, 1) for path, count in requests.items())
    assert again <= killed * IN_FLIGHT, "more was asked for again than was in flight"


IN_FLIGHT = 16 + 32 + 16
"""Images that are under way at once: connections, what waits for the decoder, what is to be noted together."""


def test_killed_at_random_moments_a_crawl_loses_doubles_and_corrupts_nothing(tmp_path):
    faults, requests = crawl_with_kills(tmp_path, images=300, kills=4, delay_s=0.3)
    check_crawl(tmp_path, 300, faults, requests, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_over_two_thousand_images_lose_double_and_corrupt_nothing(tmp_path):
    faults, requests = crawl_with_kills(tmp_path, images=2000, kills=50, delay_s=0.5)
    check_crawl(tmp_path, 2000, faults, requests, 50)
