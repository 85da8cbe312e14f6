import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images, or a skip that says what is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set WSS_TEST_DATA to a folder that holds them")
    return folder
