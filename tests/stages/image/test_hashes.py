import hashlib
from typing import Any

import pyarrow as pa

from pairsift.stages.image.hashes import ImageHashes


def test_of_the_bytes_as_they_are() -> None:
    images = [b"one", None, b""]
    with ImageHashes().open() as transform:
        result: Any = transform(pa.table({"image": pa.array(images, pa.large_binary())}))
    assert result.schema == ImageHashes().writes()
    for name in ("sha256", "md5"):
        expected = [None if data is None else hashlib.new(name, data).hexdigest() for data in images]
        assert result[f"image_{name}"].to_pylist() == expected
