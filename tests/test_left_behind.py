"""Nothing is left behind: not by a command that is killed at any moment, and not by one that is interrupted."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wss_data.retrieval.retrieve import remove_unrecorded
from wss_data.runtime.files import temporary_folder

DIES_WITHIN_S = 5
COMMAND = """
import sys
sys.argv[0] = sys.argv.pop(1)
from {} import main
if "cosegment-folder" in sys.argv:
    import quick_engine
    quick_engine.install()
sys.exit(main())
"""
MARK = "WSS_TEST_LEFT_BEHIND"


@pytest.fixture
def marked(tmp_path):
    """An environment by which all processes of a test are known, and a folder for temporary files of its own."""
    (tmp_path / "tmp").mkdir()
    here = str(Path(__file__).parent)
    added = {MARK: str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "WSS_WORKERS": "2", "PYTHONPATH": here}
    return {**os.environ, **added}


def living(mark: str) -> dict[int, str]:
    """Processes that carry the mark in their environment, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")[:150]
            except OSError:
                continue
    return found


def ended(mark: str) -> dict[int, str]:
    """What still lives ``DIES_WITHIN_S`` after now."""
    deadline = time.monotonic() + DIES_WITHIN_S
    while (left := living(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def shared_memory(process: int) -> list[str]:
    """What a process or its workers left, by its number in the name."""
    return [name for name in os.listdir("/dev/shm") if re.search(rf"[-_]{process}[-_]", name)]


MAP = """
import sys, time
import numpy as np
from wss_data.runtime.parallel import map_images

def work(number):
    time.sleep(0.02)
    return np.zeros(200_000)  # more than a pipe holds

if __name__ == "__main__":
    for result in map_images(work, range(10_000), workers=2):
        print("busy", flush=True)
        time.sleep(0.3)
"""

DECODE = """
import time
from wss_data.retrieval.decode_pool import DecodePool

if __name__ == "__main__":
    with DecodePool(2) as pool:
        futures = [pool.submit(time.sleep, 0.2) for _ in range(200)]
        futures[0].result()
        print("busy", flush=True)
        time.sleep(60)
"""

IN_A_THREAD = """
import threading, time
from wss_data.runtime.parallel import map_images

def work(number):
    return number

def all_of(count):
    assert list(map_images(work, range(count), workers=2)) == list(range(count))

if __name__ == "__main__":
    for _ in range(3):
        thread = threading.Thread(target=all_of, args=(40,))
        thread.start()
        thread.join()
        time.sleep(0.3)
    all_of(40)
    print("fine")
"""


@pytest.mark.parametrize("how", ["killed", "stopped, so that results pile up, and killed"])
@pytest.mark.parametrize("script", [MAP, DECODE], ids=["map", "decode"])
def test_workers_and_shared_memory_go_with_a_process_that_is_killed(tmp_path, marked, monkeypatch, script, how):
    file = tmp_path / "work.py"
    file.write_text(script)
    main = subprocess.Popen([sys.executable, file], env=marked, stdout=subprocess.PIPE, cwd=tmp_path)
    assert main.stdout.readline() == b"busy\n"
    assert len(living(str(tmp_path))) > 2
    if how != "killed":
        main.send_signal(signal.SIGSTOP)
        time.sleep(1)
    main.kill()
    main.wait()
    main.stdout.close()
    assert ended(str(tmp_path)) == {}
    assert shared_memory(main.pid) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with temporary_folder() as place:
        assert list((tmp_path / "tmp").iterdir()) == [place]


def test_workers_that_a_thread_started_outlive_the_thread(tmp_path, marked):
    (tmp_path / "work.py").write_text(IN_A_THREAD)
    ran = subprocess.run([sys.executable, tmp_path / "work.py"], env=marked, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("fine\n", 0)
    assert "died" not in ran.stderr
    assert ended(str(tmp_path)) == {}


def photographs(folder: Path, count: int = 24) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        image = np.full((90, 120, 3), 90, np.uint8)
        image[20:70, 30:90] = generator.integers(100, 255, 3)
        Image.fromarray(image).save(folder / f"{number}.jpg")
    return folder


def start(module: str, arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A command as its script would start it, in a group of its own; returns when it listens to signals."""
    program = "wss-data" if module == "wss_data.commands.cli" else "wss-train"
    with log.open("wb") as file:
        main = subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(module), program, *arguments],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    # Python itself takes Ctrl-C from its first moment on; of SIGTERM our code alone takes care.
    while main.poll() is None and not _caught(main.pid) & 1 << signal.SIGTERM - 1:
        time.sleep(0.001)
    return main


def _caught(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)


def kill_at(moment_s: float, number: int, tmp_path: Path, marked: dict[str, str]) -> tuple[int, int, str]:
    """Send a signal to a co-segmentation so many seconds after its begin: its number, exit status, what it printed."""
    arguments = ["cosegment-folder", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    main = start("wss_data.commands.cli", arguments, marked, tmp_path / "log")
    time.sleep(moment_s)
    with suppress(ProcessLookupError):
        os.killpg(main.pid, number) if number != signal.SIGKILL else main.kill()
    return main.pid, main.wait(60), (tmp_path / "log").read_text()


MOMENTS = [random.Random(13).uniform(0, 6) for _ in range(20)]


def moments(few):
    return [*few, *(pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS)]


@pytest.mark.parametrize("moment_s", moments([1.5, 3.0]))
def test_a_command_killed_at_any_moment_leaves_no_process_and_its_next_run_no_file(tmp_path, marked, moment_s):
    photographs(tmp_path / "photos")
    process, _, _ = kill_at(moment_s, signal.SIGKILL, tmp_path, marked)
    assert ended(str(tmp_path)) == {}
    assert shared_memory(process) == []
    _, status, _ = kill_at(0, 0, tmp_path, marked)
    assert status == 0
    assert not [path for path in tmp_path.rglob("*") if ".writing-" in path.name]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment_s", moments([0.0, 1.0, 2.5]))
def test_a_signal_at_any_moment_is_one_line_and_no_traceback(tmp_path, marked, moment_s, number):
    photographs(tmp_path / "photos")
    _, status, printed = kill_at(moment_s, number, tmp_path, marked)
    assert "Traceback" not in printed and "Exception ignored" not in printed, printed
    if status != 0:  # else it had ended before
        assert status == 128 + number
        told = [line for line in printed.replace("\r", "\n").splitlines() if line.startswith("wss-data: ")]
        assert len(told) == 1 and "Run the same command again to go on where it stopped." in told[0]
    assert ended(str(tmp_path)) == {}


@pytest.mark.parametrize("moment_s", [0.0, 0.2, 0.5])
def test_the_other_program_is_interrupted_as_quietly(tmp_path, marked, moment_s):
    main = start("wss_train.commands.cli", ["recipe", "paper"], marked, tmp_path / "log")
    time.sleep(moment_s)
    main.send_signal(signal.SIGINT)
    assert main.wait(60) in (0, 130)
    assert "Traceback" not in (tmp_path / "log").read_text()


EXIT = """
import atexit, sys, time
sys.argv[0] = "wss-data"
from wss_data.commands import build, cli
atexit.register(lambda: (print("leaving", flush=True), time.sleep(20)))
def _list(options):
    return 0
build._list = _list
sys.argv[1:] = ["list"]
sys.exit(cli.main())
"""


def test_a_signal_while_the_interpreter_ends_is_one_line_too(tmp_path, marked):
    main = subprocess.Popen(
        [sys.executable, "-c", EXIT], env=marked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert main.stdout.readline() == "leaving\n"
    main.send_signal(signal.SIGINT)
    _, errors = main.communicate(timeout=20)
    assert main.returncode == 130
    assert errors.strip() == "wss-data: interrupted. Run the same command again to go on where it stopped."


def test_the_temporary_folder_of_a_killed_process_is_removed_by_the_next(tmp_path, marked, monkeypatch):
    code = "import os, signal; from wss_data.runtime.files import temporary_folder\n"
    code += "with temporary_folder() as place: (place / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], env=marked, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with temporary_folder() as place:
        assert list((tmp_path / "tmp").iterdir()) == [place]
    assert not list((tmp_path / "tmp").iterdir())


def test_images_that_no_record_names_go_and_other_peoples_files_stay_and_are_reported(tmp_path, caplog):
    names = ["a" * 20 + ".jpg", "b" * 20 + ".jpg", "holiday.jpg", "A" * 20 + ".jpg", "c" * 20 + ".png"]
    for folder in ("cow", "dog"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    remove_unrecorded(tmp_path, set())
    assert len(list(tmp_path.rglob("*.*"))) == 10, "nothing is known yet: the next search takes them up"
    remove_unrecorded(tmp_path, {"a" * 20})
    assert {path.name for path in tmp_path.rglob("*.*")} == {*names} - {"b" * 20 + ".jpg"}
    assert "6 files are not of this dataset" in caplog.text
