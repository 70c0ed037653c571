import io
import tarfile

import pytest

from pairsift.pipeline.ledger.tar import BLOCK, TarWriter, members

FILES = {"000000000.jpg": b"\xff\xd8" * 300, "000000000.json": b"{}", "000000000.txt": b"", "exact.bin": bytes(512)}


def written(files: dict[str, bytes]) -> tuple[bytes, list[int]]:
    sink = io.BytesIO()
    tar = TarWriter(sink)
    offsets = [tar.add(name, memoryview(data)) for name, data in files.items()]
    tar.close()
    return sink.getvalue(), offsets


def test_offsets_point_at_the_bytes() -> None:
    data, offsets = written(FILES)
    for offset, content in zip(offsets, FILES.values(), strict=True):
        assert offset % BLOCK == 0
        assert data[offset : offset + len(content)] == content


def test_it_is_what_python_writes() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o444
            archive.addfile(info, io.BytesIO(content))
    assert written(FILES)[0] == sink.getvalue()


def test_an_archive_without_members_is_one() -> None:
    data, _ = written({})
    assert len(data) == 10240
    assert list(members(io.BytesIO(data))) == []


def test_members_tells_what_is_there() -> None:
    data, offsets = written(FILES)
    found = list(members(io.BytesIO(data)))
    assert found == [(name, offset, len(FILES[name])) for name, offset in zip(FILES, offsets, strict=True)]


def test_a_damaged_archive_is_told() -> None:
    data, _ = written(FILES)
    with pytest.raises(tarfile.ReadError):
        list(members(io.BytesIO(data[:700])))
    with pytest.raises(tarfile.ReadError):
        list(members(io.BytesIO(b"not a tar" * 200)))


def test_a_name_that_does_not_fit_is_refused_not_cut() -> None:
    with pytest.raises(ValueError):
        written({"x" * 101 + ".jpg": b""})
