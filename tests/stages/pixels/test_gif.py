import io
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image

from pairsift.stages.pixels.costs import MAX_CLEARS, too_costly
from pairsift.stages.pixels.gif import has_many_clears


def gif(codes: bytes, bits: int, extensions: int = 0) -> bytes:
    """A picture of 9 x 9 pixels with these LZW codes."""
    blocks = b"".join(bytes([len(codes[i : i + 255])]) + codes[i : i + 255] for i in range(0, len(codes), 255))
    frame = b"\x2c" + bytes(4) + b"\x09\0\x09\0\0" + bytes([bits])
    return b"GIF89a\x09\0\x09\0\x80\0\0" + bytes(6) + b"\x21\xfe\x01a\0" * extensions + frame + blocks + b"\0;"


def packed(codes: Iterable[int], width: int) -> bytes:
    """Codes of one width, the lowest bit first."""
    bits = "".join(f"{code:0{width}b}"[::-1] for code in codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def clears_of(data: bytes) -> int:
    """Counted code by code, as GIF89a's appendix F has it."""
    start = data.index(b"\x2c", 13 + 768) + 10
    bits, position = data[start], start + 1
    clear, width, entries, first, count, held, holds = 1 << bits, bits + 1, (1 << bits) + 2, True, 0, 0, 0
    while size := data[position]:
        for byte in data[position + 1 : position + 1 + size]:
            held, holds = held | byte << holds, holds + 8
            while holds >= width:
                code, held, holds = held & (1 << width) - 1, held >> width, holds - width
                if code == clear:
                    width, entries, first, count = bits + 1, (1 << bits) + 2, True, count + 1
                    continue
                entries += not first and entries < 4096
                first = False
                width += entries == 1 << width and width < 12
        position += 1 + size
    return count


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_clears_are_counted_at_any_width(colours: int) -> None:
    noise = np.random.default_rng(colours).integers(0, colours, (400, 500), np.uint8)
    picture = Image.frombytes("P", (500, 400), noise.tobytes())
    picture.putpalette([value for grey in range(256) for value in (grey,) * 3])
    out = io.BytesIO()
    picture.save(out, "GIF", optimize=False)
    count = clears_of(out.getvalue())
    assert count > 2
    assert has_many_clears(out.getvalue(), count - 1)
    assert not has_many_clears(out.getvalue(), count + 1)
    assert too_costly(out.getvalue(), "gif") is None


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_picture_of_clear_codes(bits: int) -> None:
    clear, width = 1 << bits, bits + 1
    assert too_costly(gif(packed([clear] * 8, width) * (MAX_CLEARS // 8), bits), "gif") is None
    assert "begins its code table anew" in str(too_costly(gif(packed([clear] * 8, width) * (MAX_CLEARS // 8 + 9), bits), "gif"))
    one_pixel_each = packed([clear, 0] * 4, width) * (MAX_CLEARS // 4 + 9)
    assert too_costly(gif(one_pixel_each, bits), "gif") is not None


def test_more_blocks_than_anybody_writes() -> None:
    assert too_costly(gif(b"", 2, extensions=100), "gif") is None
    assert too_costly(gif(b"", 2, extensions=500_000), "gif") is not None
    assert "beyond its end" in str(too_costly(gif(b"", 2)[:14], "gif"))
