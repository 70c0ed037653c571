"""Hundreds of bodies at a time, of all sizes and framings, over TCP and TLS: each row gets its own, whole."""

import asyncio
import hashlib
import random
import ssl
from pathlib import Path

import pytest
from hostile.certificates import Authority
from hostile.server import head
from yarl import URL

from pairsift.stages.download.addresses import AddressRule
from pairsift.stages.download.body import Limits
from pairsift.stages.download.client import Client
from pairsift.stages.download.fetch import Fetcher

SEEDS = range(300)


def body(seed: int) -> bytes:
    rng = random.Random(seed)
    return rng.randbytes(int(10 ** rng.uniform(0, 6)))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`/FRAMING/SEED`: in pieces of random sizes, some of which have to be waited for."""
    try:
        while True:
            framing, seed = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode().split("/")[1:]
            rng, sent = random.Random(int(seed) + 1), body(int(seed))
            at = 0
            says = {
                "length": f"Content-Length: {len(sent)}",
                "chunks": "Transfer-Encoding: chunked",
                "close": "Connection: close",
            }
            writer.write(head(says[framing]))
            while at < len(sent):
                piece = sent[at : at + int(10 ** rng.uniform(0, 6))]
                at += len(piece)
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunks" else piece)
                if rng.random() < 0.3:
                    await writer.drain()
                    await asyncio.sleep(rng.uniform(0, 0.01))
            if framing == "chunks":
                writer.write(b"0\r\n\r\n")
            if framing == "close":
                return
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("tls", [False, True])
def test_each_gets_its_own(tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context: ssl.SSLContext | None = None
    if tls:
        authority = Authority(tmp_path)
        context = authority.server_context("valid")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=500)
        origin = f"http{'s' * tls}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        wanted = [(framing, seed) for seed in SEEDS for framing in ("length", "chunks", "close")]
        room = asyncio.Semaphore(60)

        async def fetch(fetcher: Fetcher, framing: str, seed: int) -> str:
            async with room:
                return hashlib.sha256(await fetcher.fetch(URL(f"{origin}/{framing}/{seed}"))).hexdigest()

        async with Client("test", 60, AddressRule(["127.0.0.1"])) as client:
            fetcher = Fetcher(client, Limits(30, 2_000_000, 0))
            found = await asyncio.gather(*(fetch(fetcher, *which) for which in wanted))
        assert found == [hashlib.sha256(body(seed)).hexdigest() for _, seed in wanted]
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(run())
