"""Damaged files and URLs, made from honest ones: each a pure function of a seed and a number."""

import random
import struct
import zlib

INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0",
    b"\xff\xff",
    b"\x7f\xff",
    b"\xff\x7f",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
]
INTERESTING += [
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc2",
]
TOKENS = [
    "http://",
    "https:",
    "//",
    "/",
    "?",
    "#",
    "@",
    ":",
    "%",
    "%00",
    "%2f",
    "[",
    "]",
    "::1",
    "127.0.0.1",
    "\\",
    "\0",
    " ",
    "\t",
    "\r\n",
]
TOKENS += [
    "ü",
    "\u2028",
    "\ud800",
    "xn--",
    ".",
    "..",
    "\U0001f600",
    "\uff10",
    "\u3002",
    "a" * 70,
    "99999",
    "-1",
    "\u202e",
    "file:",
    "ß",
    "\xad",
]


def damaged(files: list[bytes], seed: int, number: int) -> bytes:
    """One of the files with one to eight things done to it. The checksums of a PNG are put right again, mostly: a decoder
    that stops at the first of them is not tested."""
    rng = random.Random(seed * 1_000_003 + number)
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        _damage(data, files, rng)
    if data[:4] == b"\x89PNG" and rng.random() < 0.8:
        _mend_checksums(data)
    return bytes(data)


def _damage(data: bytearray, files: list[bytes], rng: random.Random) -> None:
    # The head of a file decides most: half of what is done is done there.
    at = rng.randrange(min(len(data), 200)) if rng.random() < 0.5 and data else rng.randrange(len(data) + 1)
    length = int(rng.paretovariate(0.7))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            value = rng.choice(INTERESTING)
            data[at : at + len(value)] = value
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length] * rng.choice([1, 2, 100])
        case 4:
            other = rng.choice(files)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + length]
        case 5:
            del data[at:]
        case 6:
            order = rng.choice("<>")
            data[at : at + 4] = struct.pack(order + "I", rng.getrandbits(rng.choice([8, 16, 32])))
        case _:
            data[at : at + length] = rng.randbytes(min(length, 1000))


def _mend_checksums(data: bytearray) -> None:
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4


def damaged_text(texts: list[str], seed: int, number: int) -> str:
    rng = random.Random(seed * 1_000_003 + number)
    text = rng.choice(texts)
    for _ in range(rng.choice([1, 2, 3, 8])):
        at = rng.randrange(len(text) + 1)
        end = at + int(rng.paretovariate(1)) if rng.random() < 0.4 else at
        text = text[:at] + (rng.choice(TOKENS) if rng.random() < 0.8 else chr(rng.randrange(0x3000))) + text[end:]
    return text[:5000]
