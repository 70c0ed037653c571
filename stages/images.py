"""Images as bytes and arrays: checked, decoded, resized and encoded as img2dataset 1.47 does it; with `decode: exact`, to the
byte.

Pixels are `uint8` or `uint16` arrays of shape (height, width) or (height, width, 3), channels in OpenCV's order (BGR). What
differs from img2dataset on purpose: the size rules are applied to the header, before anything is decoded; a file that is cut
short is refused whatever the version of OpenCV makes of it; and no header can ask for more than `max_pixels`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pairsift.stages.blur import Box, blur_boxes
from pairsift.stages.fast_images import decode_reduced, shrink
from pairsift.stages.fast_png import decode_png
from pairsift.stages.fates import Failure
from pairsift.stages.image_costs import too_costly
from pairsift.stages.image_headers import ImageFormat, Size, header_size, is_truncated, sniff
from pairsift.stages.not_images import what_else
from pairsift.stages.orientation import UPRIGHT, orientation, turned, turned_box, upright

# Workers are processes and threads of ours already; OpenCV's own pool would only fight them for the cores.
cv2.setNumThreads(1)
# OpenCV logs each damaged file to stderr; here a damaged file is a fate, and is reported as one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = npt.NDArray[Any]
Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]

# 67 megapixels: the largest of full-frame cameras have 61. A decoder needs up to 1.0 GB for so many: see docs/safety.md.
MAX_PIXELS = 2**26

_INTERPOLATION: dict[str, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}
_QUALITY_FLAG: dict[str, int] = {
    "jpg": cv2.IMWRITE_JPEG_QUALITY,
    "png": cv2.IMWRITE_PNG_COMPRESSION,
    "webp": cv2.IMWRITE_WEBP_QUALITY,
}
_QUALITY_RANGE = {"jpg": (0, 100), "png": (0, 9), "webp": (1, 101)}
_WHITE = (255, 255, 255)
_BAND_PIXELS = 2**18


class ImageError(Exception):
    """Something is wrong with an image: `failure` is the code of its fate, the message the detail for people."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure


class StoredImage(NamedTuple):
    """An image as it goes into a shard. Sizes in pixels; the original's are those of the file that came in."""

    data: bytes
    format: ImageFormat
    width: int
    height: int
    original_width: int
    original_height: int


class ImageOptions(BaseModel):
    """How an image is checked, resized and encoded: img2dataset's options, under its names and with its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(256, gt=0, le=16384, description="target side in pixels; resize_mode says which side")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "border",
        description="no: as it is; border: longer side to image_size, padded white to a square; keep_ratio: shorter side to "
        "image_size; keep_ratio_largest: longer side to image_size; center_crop: keep_ratio, then the square in the middle",
    )
    resize_only_if_bigger: bool = Field(False, description="leave images alone that are not larger than image_size")
    upscale_interpolation: Interpolation = Field("lanczos", description="interpolation where the image grows")
    downscale_interpolation: Interpolation = Field("area", description="interpolation where the image shrinks")
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="where images shrink by area, fast: JPEGs decoded at 1/2, 1/4 or 1/8 where that is enough, then means of "
        "bilinear samples: at least 29 dB (PSNR), mostly 50, from exact, for half the CPU time; exact: img2dataset's pixels",
    )
    encode_format: Literal["jpg", "png", "webp"] = Field("jpg", description="format of the stored image")
    encode_quality: int = Field(
        95, ge=0, le=101, description="jpg: 0 to 100; webp: 1 to 100, 101 for lossless; png: compression 0 to 9"
    )
    orientation: Literal["apply", "ignore"] = Field(
        "apply",
        description="apply: turn each picture as its EXIF tag Orientation says, as viewers do; ignore: leave it as it came, as "
        "img2dataset does; original_width and original_height are those of the picture as it came either way",
    )
    skip_reencode: bool = Field(False, description="store the original bytes where nothing was resized and the format is right")
    disable_all_reencoding: bool = Field(
        False, description="store every file as it came, undecoded; sizes are read from its header"
    )
    min_image_size: int = Field(0, ge=0, description="images whose shorter side has fewer pixels fail as too_small")
    max_image_area: float | None = Field(None, gt=0, description="images with more pixels fail as too_large; null: no bound")
    max_aspect_ratio: float | None = Field(
        None, ge=1, description="images whose longer side is more than so many times the shorter one fail as aspect_ratio"
    )
    max_pixels: int = Field(
        MAX_PIXELS, gt=0, description="hard bound against bombs, before decoding and after resizing: too_many_pixels"
    )

    @model_validator(mode="after")
    def _quality_fits_format(self) -> "ImageOptions":
        low, high = _QUALITY_RANGE[self.encode_format]
        if not low <= self.encode_quality <= high:
            raise ValueError(
                f"encode_quality is {self.encode_quality}; with encode_format {self.encode_format} it must be {low} to {high}"
            )
        return self


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
    return StoredImage(stored, options.encode_format, *_size(pixels), *original)


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


def check_size(size: Size, options: ImageOptions) -> None:
    """The size rules, on width and height in pixels. Raises ImageError with TOO_SMALL, TOO_LARGE,
    TOO_MANY_PIXELS or ASPECT_RATIO."""
    width, height = size
    area, shorter, longer = width * height, min(size), max(size)
    shown = f"{width}x{height} pixels"
    if area > options.max_pixels:
        raise ImageError(Failure.TOO_MANY_PIXELS, f"{shown}, max_pixels is {options.max_pixels}")
    if shorter < options.min_image_size:
        raise ImageError(Failure.TOO_SMALL, f"{shown}, min_image_size is {options.min_image_size}")
    if options.max_image_area is not None and area > options.max_image_area:
        raise ImageError(Failure.TOO_LARGE, f"{shown}, max_image_area is {options.max_image_area:g}")
    if options.max_aspect_ratio is not None and longer / shorter > options.max_aspect_ratio:
        raise ImageError(Failure.ASPECT_RATIO, f"{shown}, max_aspect_ratio is {options.max_aspect_ratio:g}")


def decode(data: bytes) -> Pixels:
    """Full-size pixels of the first frame: depth and alpha as they are, EXIF orientation not applied (IMREAD_UNCHANGED).

    Shape (height, width), (height, width, 3) or (height, width, 4). Raises ImageError(DECODE_ERROR).
    """
    if sniff(data) == "png":
        pixels = decode_png(data)
        if pixels is not None:
            return pixels
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _image_error(Failure.DECODE_ERROR, error) from error
    if pixels is None:
        raise ImageError(Failure.DECODE_ERROR, "the decoder refused the file")
    return pixels


def on_white(pixels: Pixels) -> Pixels:
    """BGRA (height, width, 4) laid on white: BGR uint8. In float64 and with alpha read as 8 bits, as img2dataset has it."""
    result: Pixels = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, _BAND_PIXELS // pixels.shape[1])  # in bands, since eight bytes per value of a large image are gigabytes
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        alpha = band[:, :, 3, np.newaxis]
        matted = alpha / 255 * band[..., :3] + 255 - alpha
        result[top : top + rows] = np.rint(matted.clip(min=0, max=255))
    return result


def resize(
    pixels: Pixels, options: ImageOptions, boxes: Sequence[Box] = (), size: Size | None = None, factor: int = 1
) -> Pixels | None:
    """Pixels in the size that the options ask for, with `boxes` blurred before anything is cropped or padded; None where they
    are to be left as they are. Where they were decoded at 1/`factor`, `size` is that of the whole image.

    Raises ImageError: see `target_size`; DECODE_ERROR for a depth that cannot be resized.
    """
    size = size or _size(pixels)
    target = target_size(size, options)
    if target is None:
        return None
    if target != _size(pixels):
        pixels = _resample(pixels, target, options, size, factor)
    pixels = blur_boxes(pixels, boxes)
    if options.resize_mode == "center_crop":
        return _center_crop(pixels, options.image_size)
    if options.resize_mode == "border":
        return _pad_white(pixels, options.image_size)
    return pixels


def target_size(size: Size, options: ImageOptions) -> Size | None:
    """(width, height) that an image of `size` is resized to, before it is cropped or padded; None where it is left alone.

    Sides are rounded half to even, as albumentations does for img2dataset. Raises ImageError(TOO_MANY_PIXELS) where the result
    would exceed `max_pixels` (a strip one pixel high, enlarged).
    """
    if options.resize_mode == "no" or (options.resize_only_if_bigger and not _shrinks(size, options)):
        return None
    scale = options.image_size / _decisive_side(size, options)
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if target[0] * target[1] > options.max_pixels:
        raise ImageError(
            Failure.TOO_MANY_PIXELS, f"resized to {target[0]}x{target[1]} pixels, max_pixels is {options.max_pixels}"
        )
    return target


def _decisive_side(size: Size, options: ImageOptions) -> int:
    """The side that becomes `image_size`."""
    return min(size) if options.resize_mode in ("keep_ratio", "center_crop") else max(size)


def _shrinks(size: Size, options: ImageOptions) -> bool:
    return _decisive_side(size, options) > options.image_size


def _shrinks_fast(size: Size, options: ImageOptions) -> bool:
    return options.decode == "fast" and options.downscale_interpolation == "area" and _shrinks(size, options)


def _decode_for(
    data: bytes, image_format: ImageFormat, size: Size, turn: int, options: ImageOptions
) -> tuple[Pixels, Size, int]:
    """Pixels as they lie in the file, enough of them for the size that is wanted; the file's own size; and by what factor
    they are fewer."""
    if image_format == "jpg" and _shrinks_fast(size, options):
        target = target_size(upright(size, turn), options)
        reduced = decode_reduced(data, size, upright(target, turn), only_whole=turn != UPRIGHT) if target else None
        if reduced is not None:
            return reduced[0], size, reduced[1]
    pixels = decode(data)
    return pixels, _size(pixels), 1


def _resample(pixels: Pixels, target: Size, options: ImageOptions, size: Size, factor: int) -> Pixels:
    interpolation = options.downscale_interpolation if _shrinks(size, options) else options.upscale_interpolation
    try:
        if _shrinks_fast(size, options) and pixels.dtype == np.uint8:
            return shrink(pixels, target, size, factor)
        return cv2.resize(pixels, dsize=target, interpolation=_INTERPOLATION[interpolation])
    except cv2.error as error:
        raise _image_error(Failure.DECODE_ERROR, error) from error


def encode(pixels: Pixels, options: ImageOptions) -> bytes:
    """Pixels in `encode_format` at `encode_quality`; 16-bit pixels become 8-bit where the format has no more. Raises
    ImageError(ENCODE_ERROR), as for a JPEG side of more than 65,500 pixels."""
    parameters = [_QUALITY_FLAG[options.encode_format], options.encode_quality]
    try:
        done, buffer = cv2.imencode(f".{options.encode_format}", pixels, parameters)
    except cv2.error as error:
        raise _image_error(Failure.ENCODE_ERROR, error) from error
    if not done:
        raise ImageError(Failure.ENCODE_ERROR, f"{pixels.shape[1]}x{pixels.shape[0]} pixels as {options.encode_format}")
    return buffer.tobytes()


def _size(pixels: Pixels) -> Size:
    return pixels.shape[1], pixels.shape[0]


def _center_crop(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _pad_white(pixels: Pixels, side: int) -> Pixels:
    """Centred on a square; of an odd number of pixels, the larger part goes to the bottom and the right."""
    rows, columns = side - pixels.shape[0], side - pixels.shape[1]
    top, left = rows // 2, columns // 2
    return cv2.copyMakeBorder(pixels, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=_WHITE)


def _counts_as(data: bytes, encode_format: str) -> bool:
    """Whether `skip_reencode` may keep these bytes. img2dataset asks Python's late `imghdr`, for which a JPEG is one that
    starts with JFIF, Exif or a quantisation table: others, CMYK of Adobe's among them, are encoded anew."""
    if encode_format == "jpg":
        return data[6:10] in (b"JFIF", b"Exif") or data[:4] == b"\xff\xd8\xff\xdb"
    return sniff(data) == encode_format


def _image_error(failure: Failure, error: cv2.error) -> ImageError:
    """OpenCV's complaint as a fate, unless it is about this machine and not about the image."""
    if error.code == cv2.Error.StsNoMem:
        raise MemoryError(error.err) from error
    return ImageError(failure, str(error.err)[:200])
