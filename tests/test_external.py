"""The engine ``external``: small programs that do well, crash, hang, flood, and lie, and what becomes of the group."""

import logging
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from wss_data.cosegmentation import base, make_engine
from wss_data.cosegmentation.external import LOG, LOG_BYTES, ExternalEngine, expand_command, run_program
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import read_mask

W, H = 24, 16
PLACES = {"images": "/a b/images", "masks": "/a b/masks", "list": "/a b/list.txt", "workers": "3"}

BEGIN = """\
import os, subprocess, sys, time
from pathlib import Path
images, masks = map(Path, sys.argv[1:3])
stems = [path.stem for path in sorted(images.iterdir())]
def save(stem, values):
    from PIL import Image
    Image.fromarray(values).save(masks / f"{stem}.png")
def bright(stem):
    import numpy as np
    from PIL import Image
    return np.array(Image.open(next(images.glob(stem + ".*"))))[:, :, 0] > 128
"""
WELL = "for stem in stems: save(stem, bright(stem))\n"
SLEEPS = "import time; time.sleep(600)"


def program(folder: Path, body: str, name: str = "a program.py") -> str:
    """A command that runs ``body`` with the images' and the masks' folder."""
    path = folder / name
    path.write_text(BEGIN + textwrap.dedent(body))
    return f"{sys.executable} {shlex.quote(str(path))} {{images}} {{masks}}"


def words(folder: Path, body: str) -> list[str]:
    """The same as words, with ``folder`` for both folders."""
    return [*shlex.split(program(folder, body))[:2], str(folder), str(folder)]


def group(count: int = 3) -> list[np.ndarray]:
    """Dark images, the first ``position + 1`` columns bright: each has another mask."""
    images = []
    for position in range(count):
        image = np.full((H, W, 3), 20, np.uint8)
        image[:, : position + 1] = 230
        images.append(image)
    return images


def masks_of(engine: ExternalEngine, images: list[np.ndarray], wanted=None) -> dict[int, base.Segmented]:
    return dict(engine.segment_group(images, wanted, workers=2))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(told, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not told() and time.monotonic() < deadline:
        time.sleep(0.02)
    return told()


# ------------------------------------------------------------- the command


def test_a_path_with_spaces_stays_one_word():
    assert expand_command("coseg -i {images} --out={masks}", PLACES) == [
        "coseg",
        "-i",
        "/a b/images",
        "--out=/a b/masks",
    ]


def test_a_program_within_a_word_gets_the_paths_and_keeps_its_own_quotes():
    words = expand_command("""matlab -batch "coseg('{images}', '{masks}', {workers})" """, PLACES)
    assert words == ["matlab", "-batch", "coseg('/a b/images', '/a b/masks', 3)"]


def test_braces_written_twice_are_braces():
    assert expand_command("m \"x{{1}} = '{masks}'\"", PLACES) == ["m", "x{1} = '/a b/masks'"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("coseg {imags} {masks}", r"'\{imags\}' in '\{imags\}'; known places: \{images\}, \{masks\}, \{list\}"),
        ("coseg x{1} {masks}", "Write braces of your own twice"),
        ("coseg } {masks}", "Write braces of your own twice"),
        ("coseg 'it {masks}", "cannot be parted into words"),
        ("  ", "the command is empty"),
    ],
)
def test_a_command_that_cannot_be_meant_so_is_refused(command, told):
    with pytest.raises(CosegmentationError, match=told):
        expand_command(command, PLACES)


def test_a_path_that_would_end_a_string_is_refused_inside_a_word_only():
    places = {**PLACES, "masks": "/it's"}
    assert expand_command("coseg {masks}", places) == ["coseg", "/it's"]
    with pytest.raises(CosegmentationError, match="Choose another folder with the option work"):
        expand_command("""matlab -batch "coseg('{masks}')" """, places)


def test_a_shell_gets_plain_paths_only():
    with pytest.raises(CosegmentationError, match="Choose another folder"):
        expand_command("coseg {masks}", {"masks": "/a b; rm -rf x"}, shell=True)
    assert expand_command("coseg {masks} | tee x", {"masks": "/ab"}, shell=True) == [
        "/bin/sh",
        "-c",
        "coseg /ab | tee x",
    ]


# ------------------------------------------------------------- a program that does well


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_each_image_gets_the_mask_that_the_program_made_of_it(tmp_path, image_format):
    images = group()
    found = masks_of(ExternalEngine(command=program(tmp_path, WELL), image_format=image_format), images)
    assert list(found) == [0, 1, 2]
    for position, segmented in found.items():
        assert np.array_equal(segmented.mask, images[position][:, :, 0] > 128)
        assert segmented.confidence == 0.5
        assert segmented.uncertain is None


def test_the_program_sees_the_whole_group_whatever_is_wanted(tmp_path):
    command = program(tmp_path, f"assert len(stems) == 3, stems\n{WELL}")
    assert list(masks_of(ExternalEngine(command=command), group(), wanted=[2, 0])) == [0, 2]


def test_masks_that_a_program_made_under_the_name_of_before_are_not_made_again():
    engine = ExternalEngine(command="x {images} {masks}")
    assert base.group_fingerprint(engine, ["b", "a"]) == "67760b572a65748c"  # as the engine `outside` gave it


def test_masks_may_be_mat_files(tmp_path):
    body = """
        from scipy.io import savemat
        for stem in stems: savemat(masks / f"{stem}.mat", {"mask": bright(stem)})
    """
    found = masks_of(ExternalEngine(command=program(tmp_path, body)), group(2))
    assert [int(found[position].mask.sum()) for position in (0, 1)] == [H, 2 * H]


def test_the_program_gets_list_workers_environment_and_working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LICENCE", "mine")
    (tmp_path / "here").mkdir()
    body = """
        names = Path(sys.argv[3]).read_text().split()
        assert names == ["000000.png", "000001.png"] and sys.argv[4] == "2", sys.argv
        assert os.environ["LICENCE"] == "mine" and Path.cwd().name == "here" and not sys.stdin.read()
        for stem in stems: save(stem, bright(stem))
    """
    command = f"{program(tmp_path, body)} {{list}} {{workers}}"
    assert len(masks_of(ExternalEngine(command=command, working_folder=str(tmp_path / "here")), group(2))) == 2


def test_a_band_of_128_is_taken_as_uncertain(tmp_path):
    body = """
        import numpy as np
        for stem in stems:
            values = np.where(bright(stem), 255, 0).astype(np.uint8)
            values[:, -2:] = 128
            save(stem, values)
    """
    (segmented,) = masks_of(ExternalEngine(command=program(tmp_path, body)), group(1)).values()
    assert segmented.mask.sum() == H
    assert segmented.uncertain.sum() == 2 * H


def test_an_empty_mask_is_an_answer_and_no_mistake(tmp_path, caplog):
    body = "for stem in stems: save(stem, bright(stem) & False)"
    found = masks_of(ExternalEngine(command=program(tmp_path, body), missing_at_most=0), group(2))
    assert [(int(s.mask.sum()), s.confidence) for s in found.values()] == [(0, 0.0), (0, 0.0)]
    assert not caplog.records


def test_it_runs_through_a_shell_if_asked_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    command = f"test -d {{images}} && {program(tmp_path, WELL, 'well.py')} | cat"
    assert len(masks_of(ExternalEngine(command=command, shell=True), group(2))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["well.py"], "nothing is left behind"


# ------------------------------------------------------------- programs that do not


def log_in(error: pytest.ExceptionInfo[CosegmentationError]) -> Path:
    return Path(str(error.value).partition("(more: ")[2].partition(")")[0])


def test_a_crash_is_reported_with_the_last_lines_and_the_log(tmp_path):
    body = """
        print("\\n".join(f"step {i}" for i in range(100)), flush=True)
        sys.exit("no licence for the Image Processing Toolbox")
    """
    with pytest.raises(CosegmentationError, match="ended with status 1 after") as caught:
        masks_of(ExternalEngine(command=program(tmp_path, body)), group())
    assert str(caught.value).endswith("step 99 no licence for the Image Processing Toolbox")
    assert "step 0 " not in str(caught.value)
    assert log_in(caught).read_text().startswith("step 0\nstep 1\n")
    log_in(caught).unlink()


def test_a_killed_program_is_reported_by_its_signal(tmp_path):
    with pytest.raises(CosegmentationError, match=r"was killed by SIGSEGV.*It printed nothing"):
        run_program([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], tmp_path / "log", 60)


def test_a_program_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(CosegmentationError, match=r"'no-such-coseg' cannot be started .*Is it installed, and in PATH"):
        masks_of(ExternalEngine(command="no-such-coseg {masks}"), group())
    with pytest.raises(CosegmentationError, match="there is no such working folder for coseg"):
        masks_of(ExternalEngine(command="coseg {masks}", working_folder=str(tmp_path / "nowhere")), group())


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    body = f"""
        child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}])
        hidden = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}], start_new_session=True)
        Path({str(tmp_path / "pids")!r}).write_text(f"{{os.getpid()}} {{child.pid}} {{hidden.pid}}")
        print("waiting for a window that nobody sees", flush=True)
        time.sleep(600)
    """
    start = time.monotonic()
    with pytest.raises(
        CosegmentationError, match=r"took longer than timeout_s = 4 seconds(.|\n)*nobody sees"
    ) as caught:
        masks_of(ExternalEngine(command=program(tmp_path, body), timeout_s=4), group(1))
    assert time.monotonic() - start < 30
    assert not any(is_running(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    log_in(caught).unlink()


def test_a_program_that_will_not_hear_of_an_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("wss_data.cosegmentation.external.GRACE_S", 0.3)
    body = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with pytest.raises(CosegmentationError, match="took longer"):
        run_program([sys.executable, "-c", body], tmp_path / "log", 0.5)


def test_what_a_program_leaves_running_is_ended_when_it_ends(tmp_path):
    body = f"""
        child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}], start_new_session=True)
        Path({str(tmp_path / "pids")!r}).write_text(str(child.pid))
        for stem in stems: save(stem, bright(stem))
    """
    masks_of(ExternalEngine(command=program(tmp_path, body)), group(1))
    assert not is_running(int((tmp_path / "pids").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_we_are_stopped_the_program_stops_too(tmp_path, number):
    body = f"""
        child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}], start_new_session=True)
        part = Path({str(tmp_path / "part")!r})
        part.write_text(f"{{os.getpid()}} {{child.pid}}")
        part.rename(part.with_name("pids"))
        time.sleep(600)
    """
    ours = f"""
        from pathlib import Path
        from wss_data.cosegmentation.external import run_program
        run_program({words(tmp_path, body)!r}, Path({str(tmp_path / "log")!r}), 99)
    """
    us = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ours)], stderr=subprocess.DEVNULL)
    assert wait_until((tmp_path / "pids").is_file)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(is_running(pid) for pid in pids)
    us.send_signal(number)
    assert us.wait(30) != 0
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_flood_of_words_neither_blocks_the_program_nor_fills_memory_or_disk(tmp_path):
    body = """
        block = b"all work and no play\\n" * 50_000
        for _ in range(200): sys.stdout.buffer.write(block)
        print("the end")
    """
    peak = f"""
        import resource
        from pathlib import Path
        from wss_data.cosegmentation.external import run_program
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run_program({words(tmp_path, body)!r}, Path({str(tmp_path / "log")!r}), 99)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    grown = subprocess.run([sys.executable, "-c", textwrap.dedent(peak)], capture_output=True, check=True, text=True)
    assert int(grown.stdout) < 50_000, "KiB, of the 205 MiB that were printed"
    log = tmp_path / "log"
    assert LOG_BYTES < log.stat().st_size < 1.2 * LOG_BYTES
    text = log.read_text()
    assert text.startswith("all work")
    assert text.endswith("no play\nthe end\n")
    assert "bytes left out" in text


BAD = """
    import numpy as np
    mask = bright(stems[0])
    save(stems[1], mask[:, :-1])
    save(stems[2], mask.T.copy())
    save(stems[3], np.full(mask.shape, 7, np.uint8) * mask)
    save(stems[4], np.stack([mask * np.uint8(255)] * 3, axis=2))
    (masks / f"{stems[5]}.png").write_bytes(b"garbage")
    (masks / f"{stems[6]}.mat").write_bytes(b"garbage")
    save(stems[7], mask); (masks / f"{stems[7]}.mat").write_bytes(b"twice")
    save(stems[0], mask)
"""
REASONS = ["size", "rotated", "values", "rgb", "2 unreadable", "ambiguous", "missing"]


def test_masks_that_are_bad_or_missing_count_as_empty_and_are_reported_by_reason(tmp_path, caplog):
    engine = ExternalEngine(command=program(tmp_path, BAD), missing_at_most=0.9)
    with caplog.at_level(logging.WARNING):
        found = masks_of(engine, group(9))
    assert found[0].confidence == 0.5
    for position in range(1, 9):
        assert found[position].confidence == 0
        assert found[position].mask.shape == (H, W)
        assert not found[position].mask.any()
    (record,) = caplog.records
    assert "8 of 9 images got no good mask from the program" in record.getMessage()
    assert all(reason in record.getMessage() for reason in REASONS)


def test_too_many_without_a_mask_are_an_error(tmp_path):
    body = "save(stems[0], bright(stems[0])); print('wrote one')"
    with pytest.raises(
        CosegmentationError, match=r"2 of 3 images got no good mask(.|\n)*At most 50%(.|\n)*wrote one"
    ) as e:
        masks_of(ExternalEngine(command=program(tmp_path, body)), group(3))
    log_in(e).unlink()


# ------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "command is missing, expected a text that holds"),
        ({"command": "coseg {images}"}, r"a text that holds \{masks\}"),
        ({"command": 3}, "command is 3, expected a text that"),
        ({"command": "coseg {masks} {folder}"}, "known places"),
        ({"command": "coseg {masks}", "timeout": 3}, r"no option 'timeout' .*timeout_s"),
        ({"command": "coseg {masks}", "timeout_s": 0}, "timeout_s is 0, expected a number from 0.01"),
        ({"command": "coseg {masks}", "timeout_s": True}, "timeout_s is True"),
        ({"command": "coseg {masks}", "shell": "yes"}, "true or false"),
        ({"command": "coseg {masks}", "image_format": "bmp"}, "png or jpg"),
        ({"command": "coseg {masks}", "work": ""}, "work is '', expected a text"),
        ({"command": "coseg {masks}", "missing_at_most": 2}, "a number from 0 to 1"),
        ({"command": "coseg {masks}", "supervision": "some"}, "expected none, image_level, points"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options, told):
    with pytest.raises(CosegmentationError, match=told):
        ExternalEngine(**options)


def test_the_fingerprint_follows_what_changes_masks_and_nothing_else():
    def fingerprint(**options) -> str:
        return ExternalEngine(**{"command": "coseg {masks}", **options}).fingerprint()

    assert fingerprint() == fingerprint(timeout_s=9, work="/w", missing_at_most=0.1, supervision="none")
    others = [
        {"command": "c {masks}"},
        {"shell": True},
        {"image_format": "jpg"},
        {"working_folder": "/"},
        {"version": "2"},
    ]
    assert len({fingerprint(), *(fingerprint(**other) for other in others)}) == 6


def test_nobody_is_strict_about_a_program_of_unknown_origin():
    engine = ExternalEngine(command="/home/me/coseg {masks}")
    assert not engine.ledger.strictly_image_level
    assert engine.ledger.entries[0].what == "masks by an external program (coseg)", "no path of somebody's machine"
    assert ExternalEngine(command="coseg {masks}", supervision="none").ledger.strictly_image_level


def test_an_empty_group_is_refused():
    with pytest.raises(CosegmentationError, match="the group is empty"):
        masks_of(ExternalEngine(command="coseg {masks}"), [])


# ------------------------------------------------------------- going on


def counting(tmp_path: Path, body: str = WELL) -> str:
    count = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
    return program(tmp_path, count + textwrap.dedent(body))


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text())


def test_with_a_work_folder_a_group_that_is_done_is_not_run_again(tmp_path):
    command, work = counting(tmp_path), tmp_path / "work"
    first = masks_of(ExternalEngine(command=command, work=str(work)), group(), wanted=[0])
    again = masks_of(ExternalEngine(command=command, work=str(work), timeout_s=60), group())
    assert runs(tmp_path) == 1
    assert np.array_equal(first[0].mask, again[0].mask)
    (folder,) = work.iterdir()
    assert list((folder / "images").iterdir()) == []
    assert (folder / LOG).is_file()

    masks_of(ExternalEngine(command=command, work=str(work)), group(2))
    assert runs(tmp_path) == 2, "another group"
    masks_of(ExternalEngine(command=command, work=str(work), version="2"), group())
    assert runs(tmp_path) == 3, "another program"
    (folder / "masks" / "000001.png").unlink()
    masks_of(ExternalEngine(command=command, work=str(work)), group())
    assert runs(tmp_path) == 4, "a mask was removed"


def test_a_program_that_was_stopped_finds_its_masks_again(tmp_path):
    body = """
        left = [stem for stem in stems if not (masks / f"{stem}.png").is_file()]
        save(left[0], bright(left[0]))
        sys.exit(len(left) > 1)
    """
    engine = ExternalEngine(command=counting(tmp_path, body), work=str(tmp_path / "work"))
    for _ in range(2):
        with pytest.raises(CosegmentationError, match="ended with status 1"):
            masks_of(engine, group(3))
    assert [int(s.mask.sum()) for s in masks_of(engine, group(3)).values()] == [H, 2 * H, 3 * H]
    assert runs(tmp_path) == 3


def test_without_a_work_folder_nothing_is_left_and_the_group_runs_again(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    engine = ExternalEngine(command=counting(tmp_path))
    masks_of(engine, group())
    masks_of(engine, group())
    assert runs(tmp_path) == 2
    assert list(temporary.iterdir()) == []


def test_folders_of_photographs_become_folders_of_the_programs_masks(tmp_path):
    for class_name in ("cat", "dog"):
        for position, image in enumerate(group(2)):
            enlarged = image.repeat(8, axis=0).repeat(8, axis=1)
            write_jpeg(enlarged, tmp_path / "photos" / class_name / f"{position}.jpg")
    options = {"command": program(tmp_path, WELL)}
    wanted = {"method": "external", "options": options, "workers": 1, "progress": False, "allow_programs": True}
    summary = cosegment_folder(tmp_path / "photos", tmp_path / "masks", **wanted)
    assert summary.made == 4
    assert np.unique(read_mask(tmp_path / "masks" / "dog" / "1.png")[:, :10]).tolist() == [255]
    assert cosegment_folder(tmp_path / "photos", tmp_path / "masks", **wanted).made == 0


def test_the_engines_old_name_is_understood_with_a_warning(caplog):
    engine = make_engine("outside", {"command": "coseg {masks}"}, allow_programs=True)
    assert engine.name == "external"
    assert "'outside' is called 'external' now" in caplog.text
    with pytest.raises(CosegmentationError, match="--allow-programs"):
        make_engine("outside", {"command": "coseg {masks}"})


def test_a_program_that_cannot_be_run_is_reported_by_what_the_system_says(tmp_path):
    script = tmp_path / "coseg"
    script.write_bytes(bytes(range(1, 200)))
    script.chmod(0o755)
    with pytest.raises(CosegmentationError, match=r"ended with status 126 .*cannot be started: Exec format error"):
        run_program([str(script)], tmp_path / "log", 60)
