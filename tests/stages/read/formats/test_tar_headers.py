"""Headers, beside what Python's tarfile makes of them; and tars that were made to do harm."""

import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pairsift.stages.read.formats.tar_headers import DamagedError, Header, Window, headers
from pairsift.stages.read.formats.tars import Broken, Sample, samples

Entry = tuple[str, bytes, dict[str, str]]


def tar_of(entries: list[Entry], kind: int = tarfile.PAX_FORMAT, mtime: float = 0) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, data, more in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.pax_headers = len(data), mtime, more  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def header(name: bytes = b"a.jpg", size: bytes = b"00000000001\0", kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header block with a valid checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = fields.get("magic", b"ustar\x0000")
    block[482:483] = fields.get("extended", b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"h", b"%011o\0" % len(records), kind) + records + bytes(-len(records) % 512)


def read(data: bytes) -> list[Header]:
    return list(headers(Window(io.BytesIO(data))))


def test_what_tarfile_reads() -> None:
    rng = random.Random(0)
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        entries: list[Entry] = []
        for n in range(60):
            folder = "/".join("d" * rng.randrange(1, 30) for _ in range(rng.randrange(5)))
            if kind != tarfile.USTAR_FORMAT and n % 3 == 0:
                folder += "x" * 200
            entries.append((f"{folder}/{n}.é.jpg", rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000])), {}))
        data = tar_of(entries, kind, mtime=1.5 if kind == tarfile.PAX_FORMAT else 1)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            theirs = [(m.name.encode(), m.isreg(), m.offset_data, m.size) for m in tar]
        assert [tuple(found) for found in read(data)] == theirs
        assert len(theirs) == 60


def test_a_size_beyond_eight_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    size = 9 << 30
    with path.open("wb") as file:
        file.write(header(size=b"\x80" + size.to_bytes(11, "big")))
        file.seek(512 + size)  # a file with a hole
        file.write(header(b"b.jpg") + b"x" * 512)
    with path.open("rb") as file:
        assert [tuple(found) for found in headers(Window(file))] == [
            (b"a.jpg", True, 512, size),
            (b"b.jpg", True, size + 1024, 1),
        ]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_links_devices_and_folders_have_no_bytes(kind: bytes) -> None:
    data = header(b"link.jpg", b"00000007777\0", kind) + header(b"b.jpg") + b"x" * 512
    assert [found.is_file for found in read(data)] == [False, True]


def test_sparse_files_are_no_images() -> None:
    new = extended(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header() + b"x" * 512
    old = header(kind=b"S", extended=b"\1") + bytes(504) + b"\0" * 8 + b"x" * 512
    data = new + old + header(b"b.jpg") + b"x" * 512
    assert [(found.name, found.is_file) for found in read(data)] == [(b"a.jpg", False), (b"a.jpg", False), (b"b.jpg", True)]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (header(size=b"77777777777\0"), "has 8589934591 bytes, which the file has not"),
        (header(size=b"\x80" + b"\xff" * 11), "which the file has not"),
        (header(size=b"\xff" * 12), "has no size"),
        (header(size=b"0000000000x\0"), "has no size"),
        (header(size=b"-0000000001\0"), "has no size"),
        (header(b"h", b"77777777777\0", b"x"), "an extended header of 8589934591 bytes"),
        (header(b"h", b"77777777777\0", b"L"), "an extended header of 8589934591 bytes"),
        (header(b"h", b"\x80" + b"\xff" * 11, b"g"), "an extended header of"),
        (extended(b"18 size=-9999999\n"), "makes no sense"),
        (extended(b"17 size=-9999999\n"), "gives the size"),
        (extended(b"9 size=1_\n"), "makes no sense"),
        (extended(b"29 size=99999999999999999999\n"), "gives the size"),
        (extended(b"0 path=x\n"), "makes no sense"),
        (extended(b"999999999 path=x\n"), "makes no sense"),
        (extended(b"11 size=99\n") + header(size=b"00000000000\0"), "has 99 bytes, which the file has not"),
        (extended(b"10 path=x\n"), "in the middle of a member"),
        (header(kind=b"S", extended=b"\1"), "map is cut short"),
        (header()[:300], "no valid header at byte 1024"),
        (b"?" * 512, "no valid header at byte 1024"),
        (b"\0" * 511 + b"x", "no valid header at byte 1024"),
    ],
)
def test_what_cannot_be_is_damage(damage: bytes, says: str) -> None:
    found = headers(Window(io.BytesIO(header() + b"x" * 512 + damage)))
    assert next(found).name == b"a.jpg"
    with pytest.raises(DamagedError, match=says):
        list(found)


def test_a_hundred_thousand_extended_headers_are_no_recursion() -> None:
    chain = extended(b"10 path=x\n") * 100_000
    assert [found.name for found in read(chain + header() + b"x" * 512)] == [b"x"]


def test_damage_of_any_kind_ends_and_takes_little_memory(tmp_path: Path) -> None:
    rng = random.Random(1)
    entries: list[Entry] = [(f"{n}.jpg", b"x" * 700, {"comment": "c" * 90} if n % 2 else {}) for n in range(12)]
    whole = tar_of([*entries, ("l" * 150 + "/a.txt", b"t", {})])
    path = tmp_path / "a.tar"
    tracemalloc.start()
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
                data += b"\0"
            else:
                data[rng.randrange(len(data))] = rng.choice(b"\0\xff\x8009 xgLS=\n")
        path.write_bytes(data)
        found = list(samples(str(path), frozenset({"txt"})))
        assert sum(isinstance(sample, Broken) for sample in found) <= 1
        for sample in found:
            if isinstance(sample, Sample):
                assert all(m.offset + m.length <= len(data) for m in sample.members.values())
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
