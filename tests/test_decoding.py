import errno
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from wss_data.errors import ImageError
from wss_data.imaging.images import decode_image, encode_jpeg, read_image, resize_longest_side
from wss_data.retrieval import decode_pool as decoding
from wss_data.retrieval.decode_pool import Decoded, DecodePool, decode_to_file, perceptual_hash
from wss_data.runtime.files import atomic_path
from wss_data.runtime.killable import KillablePool

ROOT = Path(__file__).resolve().parents[1]


def photo(seed: int, width: int = 1024, height: int = 700) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (7, 10, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    image += cv2.GaussianBlur(random.normal(0, 12, image.shape).astype(np.float32), (0, 0), 1)
    return np.clip(image, 0, 255).astype(np.uint8)


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@pytest.fixture(scope="module")
def pool():
    with DecodePool(workers=1) as pool:
        yield pool


def worker_pids(pool: DecodePool) -> list[int]:
    processes = [seat.process for seat in pool._seats]
    return [process.pid for process in processes if process is not None and process.poll() is None]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# What workers do instead of decoding in some of the tests below; found by name in the worker.


def die_of_deadly(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    if data == b"deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"deadly once":
        folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_to_file(data, name, folder, longest_side)


def hang_while_writing(data: bytes, name: str, folder: Path, longest_side: int) -> None:
    with atomic_path(folder / "picture.jpg") as temporary:
        temporary.write_bytes(data)
        time.sleep(3600)


def hang(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    while data == b"endless":
        pass
    return decode_to_file(data, name, folder, longest_side)


def write_on_a_full_disk(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    return decode_to_file(data, name, folder, longest_side)


def no_space_left(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "picture.jpg"))


def test_a_file_is_named_by_its_original_and_shrunk_and_described(tmp_path):
    data = encode_jpeg(photo(1))
    decoded = decode_to_file(data, "picture", tmp_path / "cat", 340)
    assert decoded.path == tmp_path / "cat" / f"{decoded.sha256[:20]}.jpg"
    assert (decoded.original_size, decoded.size) == ((1024, 700), (340, 232))
    assert read_image(decoded.path).shape == (232, 340, 3)
    assert files_in(tmp_path / "cat") == [decoded.path.name]


def test_the_stored_image_is_the_area_average_of_the_original_within_compression_noise(tmp_path):
    data = encode_jpeg(photo(2))
    stored = read_image(decode_to_file(data, "picture", tmp_path, 340).path)
    wanted = resize_longest_side(decode_image(data, "picture"), 340)
    assert np.abs(stored.astype(int) - wanted).mean() < 2


def test_a_worker_gives_the_same_file_and_the_same_answer_as_this_process(pool, tmp_path):
    data = encode_jpeg(photo(3))
    there = pool.decode(data, "picture", tmp_path / "there", 340).result()
    here = decode_to_file(data, "picture", tmp_path / "here", 340)
    assert there.path.read_bytes() == here.path.read_bytes()
    assert (there.sha256, there.size, there.phash) == (here.sha256, here.size, here.phash)


def test_what_is_wrong_with_an_image_comes_back_from_the_worker(pool, tmp_path):
    error = pool.decode(b"<html>", "page", tmp_path, 340).exception()
    assert isinstance(error, ImageError)
    assert (error.reason, str(error)[:5]) == ("unreadable", "page:")
    error = pool.decode(encode_jpeg(photo(4))[:30_000], "half", tmp_path, 340).exception()
    assert error.reason == "truncated"
    assert files_in(tmp_path) == []


def test_an_image_that_kills_its_worker_is_dropped_and_the_others_are_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", die_of_deadly)
    with DecodePool(workers=2) as pool:
        images = [encode_jpeg(photo(seed, 300, 200)) for seed in range(6)]
        futures = [pool.decode(data, "picture", tmp_path, 340) for data in (*images[:3], b"deadly", *images[3:])]
        errors = [future.exception() for future in futures]
    assert [error.reason if error else None for error in errors] == [None] * 3 + ["decoder_killed"] + [None] * 3
    assert len(files_in(tmp_path)) == 6


def test_a_death_that_does_not_repeat_is_no_fault_of_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", die_of_deadly)
    with DecodePool(workers=1) as pool:
        error = pool.decode(b"deadly once", "picture", tmp_path / "folder", 340).exception()
    assert isinstance(error, FileExistsError)  # it was tried again and got further


def test_an_image_that_takes_too_long_is_given_up_and_the_next_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", hang)
    with DecodePool(workers=1, seconds=0.5) as pool:
        endless = pool.decode(b"endless", "picture", tmp_path, 340)
        next_one = pool.decode(encode_jpeg(photo(5, 300, 200)), "picture", tmp_path, 340)
        assert endless.exception().reason == "decoder_timeout"
        assert next_one.result().size == (300, 200)


def test_an_image_that_needs_too_much_memory_is_refused_and_the_worker_lives(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with DecodePool(workers=1, memory_mb=150) as pool:
        error = pool.decode(buffer.getvalue(), "picture", tmp_path, 340).exception()
        before = worker_pids(pool)
        assert pool.decode(encode_jpeg(photo(6)), "picture", tmp_path, 340).result().size == (340, 232)
        assert worker_pids(pool) == before
    assert error.reason == "decoder_memory"


def test_idle_workers_that_were_killed_are_replaced(tmp_path):
    with DecodePool(workers=1) as pool:
        pool.decode(b"", "picture", tmp_path, 340).exception()
        (pid,) = worker_pids(pool)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker_pids(pool) != [pid])
        assert pool.decode(encode_jpeg(photo(7)), "picture", tmp_path, 340).result().size == (340, 232)


def test_a_disk_that_is_full_is_no_fault_of_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", no_space_left)
    with DecodePool(workers=1) as pool:
        error = pool.decode(b"", "picture", tmp_path, 340).exception()
    assert type(error) is OSError
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / "picture.jpg"))


def test_a_file_that_cannot_be_written_whole_is_not_there_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", write_on_a_full_disk)
    with DecodePool(workers=1) as pool:
        error = pool.decode(encode_jpeg(photo(8)), "picture", tmp_path, 340).exception()
    assert (type(error), error.errno) == (OSError, errno.EFBIG)
    assert files_in(tmp_path) == []


def test_leaving_the_pool_on_an_error_kills_the_workers_and_leaves_no_future_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", hang)
    with pytest.raises(KeyboardInterrupt), DecodePool(workers=1) as pool:
        futures = [pool.decode(b"endless", "picture", tmp_path, 340) for _ in range(3)]
        wait_until(lambda: worker_pids(pool))
        pids = worker_pids(pool)
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_leaving_the_pool_on_an_error_leaves_no_half_written_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_decode_in_worker", hang_while_writing)
    with pytest.raises(KeyboardInterrupt), DecodePool(workers=1) as pool:
        pool.decode(b"endless", "picture", tmp_path / "cat", 340)
        wait_until(lambda: list(tmp_path.rglob(".writing-*")))
        raise KeyboardInterrupt
    assert files_in(tmp_path) == ["cat"]


def test_the_bytes_of_finished_images_are_let_go(pool, tmp_path):
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    pool.decode(bytes(4_000_000), "zeros", tmp_path, 340).exception()
    before = memory()
    futures = []
    for _ in range(40):
        futures.append(pool.decode(bytes(4_000_000), "zeros", tmp_path, 340))
        futures[-1].exception()
    assert memory() - before < 40_000_000


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def script(path: Path, body: str) -> list[str]:
    """A command that runs a script without ``if __name__ == "__main__"``."""
    path.write_text(textwrap.dedent(body))
    return [sys.executable, str(path)]


def test_workers_die_with_a_process_that_is_killed_even_if_they_hang(tmp_path):
    body = f"""
        import sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from pathlib import Path
        import test_decoding
        from wss_data.retrieval import decode_pool as decoding
        decoding._decode_in_worker = test_decoding.hang
        pool = decoding.DecodePool(workers=2)
        futures = [pool.decode(b"endless", "picture", Path({str(tmp_path)!r}), 340) for _ in range(2)]
        while len(test_decoding.worker_pids(pool)) < 2:
            time.sleep(0.02)
        time.sleep(3)
        print(*test_decoding.worker_pids(pool), flush=True)
        futures[0].result()
    """
    with subprocess.Popen(script(tmp_path / "crawl.py", body), stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
        process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_script_is_not_run_again_by_the_workers(tmp_path):
    body = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from wss_data.retrieval.decode_pool import DecodePool
        print("script")
        with DecodePool(workers=1) as pool:
            print(pool.decode(b"", "picture", Path({str(tmp_path)!r}), 340).exception().reason)
    """
    done = subprocess.run(script(tmp_path / "crawl.py", body), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["script", "unreadable"]
    assert done.stderr == ""


def test_the_perceptual_hash_is_the_librarys_within_two_bits():
    for seed in range(20):
        image = photo(seed, 340, 232)
        assert distance(perceptual_hash(image), str(imagehash.phash(Image.fromarray(image)))) <= 2


@pytest.mark.parametrize("kind", ["photograph", "noise", "flat", "mirrored", "two tones"])
def test_the_perceptual_hash_of_64_pixels_a_side_is_the_librarys_bit_by_bit(kind):
    for seed in range(40):
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 1), dtype=np.uint8)
        tiles = {
            "noise": noise,
            "flat": np.full((64, 64, 1), noise[0, 0, 0]),
            "mirrored": np.concatenate([noise[:, :32], noise[:, 31::-1]], axis=1),
            "two tones": np.where(noise < 128, np.uint8(0), np.uint8(255)),
        }
        if kind == "photograph":
            image = cv2.resize(photo(seed), (64, 64), interpolation=cv2.INTER_AREA)
        else:
            image = tiles[kind].repeat(3, axis=2)
        assert perceptual_hash(image) == str(imagehash.phash(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))))


def test_the_perceptual_hash_is_nearly_the_same_for_the_original_the_stored_file_and_a_copy_in_low_quality(tmp_path):
    for seed in range(20):
        original = photo(seed)
        decoded = decode_to_file(encode_jpeg(original), "picture", tmp_path, 340)
        copy = decode_image(encode_jpeg(resize_longest_side(original, 500), quality=50), "copy")
        assert distance(decoded.phash, perceptual_hash(read_image(decoded.path))) <= 2
        assert distance(decoded.phash, perceptual_hash(original)) <= 4
        assert distance(decoded.phash, perceptual_hash(copy)) <= 4


def test_perceptual_hashes_of_different_images_are_far_apart():
    hashes = [perceptual_hash(photo(seed, 340, 232)) for seed in range(20)]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 12


def test_images_smaller_than_the_hash_are_hashed_too():
    assert len(perceptual_hash(photo(1, 20, 300))) == 16


@pytest.mark.parametrize("size", [0, 10, 300_000, 3 << 20])
def test_bytes_reach_a_worker_whole_through_memory_and_where_no_file_may_grow(size, monkeypatch):
    data = os.urandom(size)
    with KillablePool(1, 1 << 30, 60) as pool:
        assert pool.submit(bytes.hex, pickle.PickleBuffer(data)).result() == data.hex()
        monkeypatch.setattr(os, "pwritev", lambda *_: size // 2)
        assert pool.submit(bytes.hex, pickle.PickleBuffer(data)).result() == data.hex()


def test_a_result_that_cannot_be_handed_back_is_an_error_and_the_worker_lives():
    with KillablePool(1, 1 << 30, 60) as pool:
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pool.submit(eval, "lambda: 0").result()
        (before,) = worker_pids(pool)
        assert pool.submit(eval, "1 + 1").result() == 2
        assert worker_pids(pool) == [before]
