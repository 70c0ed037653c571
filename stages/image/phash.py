"""`image.phash`: a perceptual hash, which stays nearly the same when an image is scaled, compressed or lightly edited."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import Columns, Stage, Transform
from pairsift.stages.fates import Failure
from pairsift.stages.pixels import hashing
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.options import MAX_PIXELS


class ImagePhash(Stage):
    """pHash of the stored image, for `dedup.perceptual` and `dedup.against`, or `dedup.exact` where equal hashes are enough.

    - `phash`: string, 64 hex digits (16 with `bits: 64`); null where there is no image, and where it is flat.
    - `phash_contrast`: float32, 0 to 128: standard deviation of the grey levels of the image at 32 x 32 pixels.

    The hash is `imagehash.phash`: signs of the lowest frequencies of a cosine transform, against their median. Of 256 bits,
    two different photographs differ in about 128. An image with a contrast below `least_contrast` is flat: its hash would be
    noise, or that of all other flat ones; so it has none, and is nobody's duplicate. Orientation in EXIF is not applied, what
    is transparent lies on white. A mirrored image has another hash.

    An image that cannot be decoded has the failure `image_unreadable`.
    """

    bits: Literal[64, 256] = Field(256, description="length of the hash; 64 as COYO-700M has it, with more false neighbours")
    least_contrast: float = Field(
        hashing.LEAST_CONTRAST,
        ge=0,
        description="standard deviation of grey levels below which an image is flat and has no hash",
    )
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="images with more are not decoded, but fail")

    def reads(self) -> Columns:
        return (schema.IMAGE.name,)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("phash", pa.string()), pa.field("phash_contrast", pa.float32())])

    def identity(self) -> str:
        return hashing.LIBRARY

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._hash_all

    def _hash_all(self, batch: pa.Table) -> pa.Table:
        hashes: list[str | None] = []
        contrasts: list[float | None] = []
        failures: list[tuple[str, str] | None] = []
        for data in batch[schema.IMAGE.name].to_pylist():
            found: tuple[str | None, float | None] = (None, None)
            failure = None
            if data is not None:
                try:
                    found = hashing.phash(data, self.bits, self.least_contrast, self.max_pixels)
                except ImageError as error:
                    failure = (Failure.IMAGE_UNREADABLE.value, str(error))
            hashes.append(found[0])
            contrasts.append(found[1])
            failures.append(failure)
        columns = {
            "phash": hashes,
            "phash_contrast": contrasts,
            "failure": [row and row[0] for row in failures],
            "failure_detail": [row and row[1] for row in failures],
        }
        return pa.table(columns, schema=pa.schema([*self.writes(), schema.FAILURE, schema.FAILURE_DETAIL]))
