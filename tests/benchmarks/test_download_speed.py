"""The claim about speed in short. The long form, img2dataset included, is ``download_speed.py``."""

from pathlib import Path

from download_speed import ours, play, ratio, requests_and_pillow

ROUNDS = 3
PICTURES = 90


def test_with_all_its_checks_an_image_costs_two_thirds_of_the_unchecked_loop_at_most(tmp_path: Path) -> None:
    checked, usual = ours(), requests_and_pillow()

    turns = play([checked, usual], PICTURES, ROUNDS, tmp_path)

    assert ratio(turns, usual.name, checked.name, lambda turn: turn.running_ms) >= 1.5
