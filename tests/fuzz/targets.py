"""What is fuzzed, and what must hold for any input. Each target takes a seed and a number, and raises if it does not hold."""

from collections.abc import Callable
from functools import cache

from hostile import images
from mutate import damaged, damaged_text
from yarl import URL

from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import retry_after
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.exif import exif_json
from pairsift.stages.download.urls import parse_url, redirect_target
from pairsift.stages.pixels.coding import ImageError
from pairsift.stages.pixels.costs import too_costly
from pairsift.stages.pixels.headers import header_size, is_truncated, sniff
from pairsift.stages.pixels.images import StoredImage, prepare
from pairsift.stages.pixels.options import ImageOptions
from pairsift.stages.pixels.orientation import orientation

MAX_PIXELS = 4_000_000  # so that what is slow is slow for another reason than size
OPTIONS = [
    ImageOptions(max_pixels=MAX_PIXELS),
    ImageOptions(max_pixels=MAX_PIXELS, image_size=16, resize_mode="center_crop"),
    ImageOptions(max_pixels=MAX_PIXELS, image_size=24, resize_mode="keep_ratio", decode="exact", encode_format="webp"),
    ImageOptions(max_pixels=MAX_PIXELS, resize_mode="no", encode_format="png", encode_quality=1, orientation="ignore"),
    ImageOptions(max_pixels=MAX_PIXELS, resize_mode="no", skip_reencode=True),
    ImageOptions(max_pixels=MAX_PIXELS, disable_all_reencoding=True),
]
URLS = [
    "http://example.com/a.jpg",
    "https://user:word@müller.example:8443/a b/%20/ü?x=1&y=%26#part",
    "http://[2001:db8::1]:80/a.jpg",
    "//cdn.example/a.jpg",
    "../up/./a.jpg?q",
    "http://127.1/",
]
DATES = ["120", "Fri, 31 Dec 1999 23:59:59 GMT", "-1", "1e9", "Sun Nov  6 08:49:37 1994", "99999999999"]


@cache
def files() -> list[bytes]:
    """Honest pictures of every format, with EXIF and text, and the smaller of the dishonest ones."""
    made = [images.picture(name) for name in [*images.ACCEPTED, *images.REFUSED]]
    for value in (1, 6):
        for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
            made.append(images.saved(images.pixels(), name, exif=images.exif_block(value)))
    made.append(images.jpeg_of_many_scans(20, 64))
    return [data for data in made if len(data) < 20_000]


def case(target: str, seed: int, number: int) -> bytes | str:
    if target in ("decode", "headers", "exif"):
        return damaged(files(), seed, number)
    return damaged_text(DATES if target == "retry_after" else URLS, seed, number)


def told(error: ImageError | FetchError) -> None:
    assert str(error), error.failure


def decode(seed: int, number: int) -> None:
    """`prepare` gives an image or an ImageError with a detail, and nothing else."""
    data = damaged(files(), seed, number)
    try:
        image = prepare(data, OPTIONS[number % len(OPTIONS)])
    except ImageError as error:
        told(error)
        return
    assert isinstance(image, StoredImage)
    assert image.data
    assert 0 < image.width * image.height <= MAX_PIXELS
    assert 0 < image.original_width * image.original_height <= MAX_PIXELS


def headers(seed: int, number: int) -> None:
    """No header makes its reader raise."""
    data = damaged(files(), seed, number)
    image_format = sniff(data)
    if image_format is None:
        return
    size = header_size(data, image_format)
    assert size is None or min(size) > 0
    is_truncated(data, image_format)
    too_costly(data, image_format)
    assert 1 <= orientation(data, image_format) <= 8


def exif(seed: int, number: int) -> None:
    tags = exif_json(damaged(files(), seed, number))
    assert tags is None or len(tags) < 10_000_000


def urls(seed: int, number: int) -> None:
    """What is let through is http or https, has a host, and means the same when it is read again."""
    try:
        url = parse_url(damaged_text(URLS, seed, number))
    except FetchError as error:
        told(error)
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host
    assert parse_url(str(url)).raw_host == url.raw_host
    AddressRule(allow_private=False).allows(url.raw_host)


def redirects(seed: int, number: int) -> None:
    text = damaged_text(URLS, seed, number)
    location = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")  # as the client hands it over
    try:
        url = redirect_target(URL("http://example.com/a/b?c"), location)
    except FetchError as error:
        told(error)
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host


def waits(seed: int, number: int) -> None:
    seconds = retry_after(damaged_text(DATES, seed, number))
    assert seconds is None or seconds >= 0


TARGETS: dict[str, Callable[[int, int], None]] = {
    "decode": decode,
    "headers": headers,
    "exif": exif,
    "urls": urls,
    "redirects": redirects,
    "retry_after": waits,
}
