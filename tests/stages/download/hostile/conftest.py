import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `hostile` is a package here and in the other tests of downloads

from hostile.server import Server, prebuilt, serving


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    prebuilt()
    with serving(tmp_path_factory.mktemp("certificates")) as server:
        yield server
