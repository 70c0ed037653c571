"""`image.hashes`: checksums of the stored file, for datasets that come without."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform


class ImageHashes(Stage):
    """SHA-256 and MD5 of the image's stored bytes, for `dedup.exact`, `dedup.against` and `text.listed`. Decodes nothing.

    - `image_sha256`: string, 64 hex digits. `image_md5`: string, 32. Null where there is no image.

    What `download` writes as `sha256` is of the body as it came, before it was made smaller.
    """

    def reads(self) -> Columns:
        return (schema.IMAGE.name,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("image_sha256", pa.string()), pa.field("image_md5", pa.string())])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._hash_all

    def _hash_all(self, batch: pa.Table) -> pa.Table:
        images = batch[schema.IMAGE.name].to_pylist()
        columns = [
            pa.array(
                [None if data is None else hashlib.new(name, data, usedforsecurity=False).hexdigest() for data in images],
                pa.string(),
            )
            for name in ("sha256", "md5")
        ]
        return pa.table(columns, schema=self.writes())
