"""An image file as it was downloaded, made into the one that is stored: checked, decoded, resized and encoded as img2dataset
1.47 does it; with `decode: exact`, to the byte.

What differs from img2dataset on purpose: the size rules are applied to the header, before anything is decoded; a file that is
cut short is refused whatever the version of OpenCV makes of it; and no header can ask for more than `max_pixels`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pairsift.stages.fates import Failure
from pairsift.stages.pixels.blur import Box, blur_boxes
from pairsift.stages.pixels.coding import ImageError, Pixels, decode, encode, on_white
from pairsift.stages.pixels.costs import too_costly
from pairsift.stages.pixels.headers import ImageFormat, Size, header_size, is_truncated, sniff
from pairsift.stages.pixels.not_images import what_else
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.orientation import UPRIGHT, orientation, turned, turned_box, upright
from pairsift.stages.pixels.reduced import decode_reduced
from pairsift.stages.pixels.resizing import resize, shrinks_fast, size_of, target_size


class StoredImage(NamedTuple):
    """An image as it goes into a shard. Sizes in pixels; the original's are those of the file that came in."""

    data: bytes
    format: ImageFormat
    width: int
    height: int
    original_width: int
    original_height: int


def prepare(data: bytes, options: ImageOptions, boxes: Sequence[Box] = ()) -> StoredImage:
    """Bytes as downloaded → bytes to store, with `boxes` blurred. A pure function.

    Where img2dataset's `Resizer` gives bytes for a whole file, `decode: exact` gives the same bytes, `fast` the same sizes.
    With `disable_all_reencoding` the file is only looked at: unlike img2dataset, the size rules hold then too, and width and
    height are known.

    Raises:
        ImageError: see `inspect`, `check_size`, `target_size`, `decode` and `encode`.
    """
    image_format, size = inspect(data)
    check_size(size, options)
    if options.disable_all_reencoding:
        return StoredImage(data, image_format, *size, *size)
    turn = orientation(data, image_format) if options.orientation == "apply" else UPRIGHT
    pixels, original, factor = _decode_for(data, image_format, size, turn, options)
    if original != size:  # an AVIF's header can state another size than its picture has
        check_size(original, options)
    encode_needed = not (options.skip_reencode and _counts_as(data, options.encode_format))
    if turn != UPRIGHT:
        pixels, encode_needed = turned(pixels, turn), True
        boxes = [turned_box(box, turn) for box in boxes]
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels, encode_needed = on_white(pixels), True
    resized = resize(pixels, options, boxes, upright(original, turn), factor)
    if resized is not None:
        pixels, encode_needed = resized, True
    elif boxes:
        pixels, encode_needed = blur_boxes(pixels, boxes), True
    stored = encode(pixels, options) if encode_needed else data
    return StoredImage(stored, options.encode_format, *size_of(pixels), *original)


def inspect(data: bytes) -> tuple[ImageFormat, Size]:
    """Format and (width, height) in pixels of a whole file, from its header.

    Raises:
        ImageError: see `what_else` for what is no image; TRUNCATED_IMAGE, DECODE_ERROR for a damaged header, TOO_COSTLY.
    """
    image_format = sniff(data)
    if image_format is None:
        raise ImageError(what_else(data), f"the body starts with {data[:16]!r}")
    size = header_size(data, image_format)
    if size is None:
        raise ImageError(Failure.DECODE_ERROR, f"damaged {image_format} header")
    if is_truncated(data, image_format):
        raise ImageError(Failure.TRUNCATED_IMAGE, f"{image_format} file is cut short at {len(data)} bytes")
    costs = too_costly(data, image_format)
    if costs is not None:
        raise ImageError(Failure.TOO_COSTLY, costs)
    return image_format, size


def check_pixels(size: Size, max_pixels: int) -> None:
    """The bound against bombs. Raises ImageError with TOO_MANY_PIXELS."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(Failure.TOO_MANY_PIXELS, f"{width}x{height} pixels, max_pixels is {max_pixels}")


def check_size(size: Size, options: ImageOptions) -> None:
    """The size rules, on width and height in pixels. Raises ImageError with TOO_SMALL, TOO_LARGE,
    TOO_MANY_PIXELS or ASPECT_RATIO."""
    width, height = size
    area, shorter, longer = width * height, min(size), max(size)
    shown = f"{width}x{height} pixels"
    check_pixels(size, options.max_pixels)
    if shorter < options.min_image_size:
        raise ImageError(Failure.TOO_SMALL, f"{shown}, min_image_size is {options.min_image_size}")
    if options.max_image_area is not None and area > options.max_image_area:
        raise ImageError(Failure.TOO_LARGE, f"{shown}, max_image_area is {options.max_image_area:g}")
    if options.max_aspect_ratio is not None and longer / shorter > options.max_aspect_ratio:
        raise ImageError(Failure.ASPECT_RATIO, f"{shown}, max_aspect_ratio is {options.max_aspect_ratio:g}")


def _decode_for(
    data: bytes, image_format: ImageFormat, size: Size, turn: int, options: ImageOptions
) -> tuple[Pixels, Size, int]:
    """Pixels as they lie in the file, enough of them for the size that is wanted; the file's own size; and by what factor
    they are fewer."""
    if image_format == "jpg" and shrinks_fast(size, options):
        target = target_size(upright(size, turn), options)
        reduced = decode_reduced(data, size, upright(target, turn), only_whole=turn != UPRIGHT) if target else None
        if reduced is not None:
            return reduced[0], size, reduced[1]
    pixels = decode(data)
    return pixels, size_of(pixels), 1


def _counts_as(data: bytes, encode_format: str) -> bool:
    """Whether `skip_reencode` may keep these bytes. img2dataset asks Python's late `imghdr`, for which a JPEG is one that
    starts with JFIF, Exif or a quantisation table: others, CMYK of Adobe's among them, are encoded anew."""
    if encode_format == "jpg":
        return data[6:10] in (b"JFIF", b"Exif") or data[:4] == b"\xff\xd8\xff\xdb"
    return sniff(data) == encode_format
