"""The command for a GPU machine, where there is none."""

import gpu_check
import pytest
import torch


def test_its_parts_agree_with_themselves_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--device", "cpu", "--small"])
    monkeypatch.setattr(gpu_check, "the_tests", lambda: True)  # pytest within pytest
    assert gpu_check.main() == 0
    shown = capsys.readouterr().out
    assert "losses: at most 0.00% apart in 3 iterations" in shown
    assert shown.count("100.00% of the pixels equal") == 2
    assert shown.endswith("gpu-check: all good\n")


def test_a_part_that_is_apart_fails(capsys):
    def zeros_and_ones(where: str):
        return [torch.full((2, 2), int(where == "cpu")).numpy()]

    assert not gpu_check.agreement("masks", zeros_and_ones, torch.device("meta"))
    assert "0.00% of the pixels equal" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py"])
    assert gpu_check.main() == 1
    assert "no CUDA device" in capsys.readouterr().out
