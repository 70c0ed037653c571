"""Run by test_rebinding.py in a network of its own, where this process may have any address and any name server.

`public` below is an address of the public internet to whoever looks at it, and here it is this process's; so is that of a
cloud's metadata service. A web server listens on both. Prints what became of each URL, and where requests came in.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow as pa
from hostile.names import NameServer
from hostile.server import GOOD, answer

from pairsift.stages.base import Transform
from pairsift.stages.download import Download

PUBLIC, METADATA, PRIVATE = "93.184.215.14", "169.254.169.254", "10.0.0.1"
NAMES = {
    "honest.example": [[PUBLIC]],
    "rebinds.example": [[PUBLIC], [METADATA]],
    "private.example": [[METADATA, PRIVATE]],
    "mixed.example": [[METADATA, PUBLIC, PRIVATE]],
    "away.example": [[PUBLIC]],
}
URLS = [
    "http://honest.example/a",
    "http://rebinds.example/a",  # its first look-up
    "http://rebinds.example:81/a",  # its second: names are kept per port
    "http://private.example/a",
    "http://mixed.example/a",
    "http://away.example/to/private.example/a",
    "http://away.example/to/rebinds.example:82/a",
    "http://no-such-name.example/a",
]


def prepare(folder: Path) -> None:
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    commands = [["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"], ["ip", "link", "set", "lo", "up"]]
    commands += [["ip", "address", "add", f"{address}/32", "dev", "lo"] for address in (PUBLIC, METADATA, PRIVATE)]
    for command in commands:
        subprocess.run(command, check=True)


async def fetch_all(transform: Transform, seen: Counter[str]) -> list[str | None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen[writer.get_extra_info("sockname")[0]] += 1
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        away = [f"Location: http://{path.removeprefix('/to/')}"] if path.startswith("/to/") else []
        writer.write(answer(b"", *away, status="302 Found") if away else answer(GOOD, "Connection: close"))
        writer.close()

    servers = [await asyncio.start_server(serve, "0.0.0.0", port) for port in (80, 81, 82)]
    failures: list[str | None] = []
    for url in URLS:  # one after the other, so that the name server's answers come in this order
        table = await transform(pa.table({"url": [url]}))  # type: ignore[misc]  # download's is awaited
        failures += table.column("failure").to_pylist()
    for server in servers:
        server.close()
    return failures


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
    requests: Counter[str] = Counter()
    stage = Download(contact="mailto:tests@example.org", robots=False, retries=0, timeout=5)
    with NameServer(NAMES, 53) as names, stage.open() as transform:
        fates = asyncio.run(fetch_all(transform, requests))
    print(json.dumps({"fates": dict(zip(URLS, fates, strict=True)), "requests": requests, "asked": names.asked}))  # noqa: T201
