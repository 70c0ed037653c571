"""Columns that say where a sample's bytes lie in a tar."""

from collections.abc import Callable, Sequence
from typing import Any

from pairsift.stages import schema
from pairsift.stages.read.formats.tars import Sample

IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif")
REFERENCE = (schema.SOURCE_KEY, *schema.IMAGE_REFERENCE, schema.SOURCE_MEMBERS)


def places(batch: Sequence[Sample], uri: str, images: Sequence[str], carried: Callable[[str], bool]) -> dict[str, list[Any]]:
    """The columns REFERENCE: nulls where a sample has no image. The first of the extensions `images` that it has is its image;
    of its other members, those whose extension is `carried` are listed."""
    columns: dict[str, list[Any]] = {field.name: [] for field in REFERENCE}
    for sample in batch:
        members = sample.members
        suffix = next((suffix for suffix in images if suffix in members), None)
        image = members[suffix] if suffix else None
        columns["source_key"].append(sample.key)
        columns["image_path"].append(uri if image else None)
        columns["image_offset"].append(image.offset if image else None)
        columns["image_length"].append(image.length if image else None)
        # What the image is called in an output: a jpeg is a jpg, unless another member is called so.
        columns["image_format"].append("jpg" if suffix == "jpeg" and "jpg" not in members else suffix)
        others = [
            {"extension": name, "offset": member.offset, "length": member.length}
            for name, member in members.items()
            if name != suffix and carried(name)
        ]
        columns["source_members"].append(others or None)
    return columns
