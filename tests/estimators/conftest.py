"""The laboratory draws many samples of small programs."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_to_sample(optimized):
    pass
