import numpy as np
import pytest

from wss_data.cosegmentation.spool import ArraySpool


@pytest.mark.parametrize("memory_bytes", [0, 1, 1 << 20])
def test_rows_come_back_in_any_order_as_they_were_written(memory_bytes):
    first = [np.arange(6, dtype=np.float16).reshape(2, 3), np.array([7, 8])]
    second = [np.zeros((0, 4), np.uint8), np.array(True)]
    with ArraySpool(memory_bytes) as spool:
        spool.append(first)
        spool.append(second)

        assert len(spool) == 2
        for row, expected in ((1, second), (0, first), (1, second)):
            for found, wanted in zip(spool.read(row, 2), expected, strict=True):
                assert np.array_equal(found, wanted) and found.dtype == wanted.dtype


def test_arrays_in_the_middle_of_a_row_are_read_alone_and_rows_may_follow_a_reading():
    with ArraySpool(1 << 20) as spool:
        spool.append([np.array([1]), np.array([2, 2]), np.array([3])])
        assert [values.tolist() for values in spool.read(0, 1, skip=1)] == [[2, 2]]
        spool.append([np.array([4])])

        assert spool.read(1, 1)[0].tolist() == [4]
        assert spool.read(0, 1, skip=2)[0].tolist() == [3]


def test_the_file_is_gone_with_the_spool(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ArraySpool(1) as spool:
        spool.append([np.zeros(1000)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        spool.read(0, 1)
