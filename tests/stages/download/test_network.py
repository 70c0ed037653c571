import asyncio
import subprocess
import sys
import threading

import pytest

from pairsift.stages.download.network import network_loop


async def where() -> int:
    return threading.get_ident()


def test_runs_beside_the_caller() -> None:
    async def ask() -> int:
        return await network.submit(where())

    with network_loop(1) as network:
        assert network.call(where()) == asyncio.run(ask()) != threading.get_ident()


def test_errors_come_back() -> None:
    async def fail() -> None:
        raise ValueError("told you")

    with network_loop(1) as network, pytest.raises(ValueError, match="told you"):
        network.call(fail())


def test_what_is_unfinished_at_the_end_is_cancelled() -> None:
    fate: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            fate.append("cancelled")
            raise

    async def start() -> None:
        fate.append("started")
        task = asyncio.ensure_future(linger())
        await asyncio.sleep(0.01)
        assert not task.done()

    with network_loop(1) as network:
        network.call(start())
    assert fate == ["started", "cancelled"]
    assert not [thread for thread in threading.enumerate() if thread.name == "pairsift-network"]


def test_a_process_that_ends_with_a_download_open_does_end() -> None:
    """As a worker of Ray does, whose stages are open for good."""
    script = """
from contextlib import ExitStack
from pairsift.stages.download import Download

stack = ExitStack()
stack.enter_context(Download(use="download", allow_private_addresses=True).open())
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert ended.returncode == 0
