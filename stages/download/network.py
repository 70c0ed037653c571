"""An asyncio loop in a thread of its own, so that the network is never kept waiting by the loop of whoever calls."""

import asyncio
import sys
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class NetworkLoop:
    """A running loop. `call` waits for a coroutine from a plain thread, `submit` from another loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """To be awaited on the caller's running loop; cancelling it cancels the work."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@contextmanager
def network_loop(resolver_threads: int) -> Iterator[NetworkLoop]:
    """A loop that runs until the context ends; what is still going on there is cancelled then.

    `resolver_threads`: how many DNS look-ups may block at a time. They are the loop's default executor. One that hangs is not
    waited for, but by Python where the process ends.

    Where Python itself ends before the context, as in a worker of Ray, nothing is done: threads stand still by then, and to
    wait for them would be for ever.
    """
    loop = asyncio.new_event_loop()
    resolvers = ThreadPoolExecutor(resolver_threads, thread_name_prefix="pairsift-dns")
    loop.set_default_executor(resolvers)
    thread = threading.Thread(target=loop.run_forever, name="pairsift-network", daemon=True)
    thread.start()
    try:
        yield NetworkLoop(loop)
    finally:
        if not sys.is_finalizing():
            asyncio.run_coroutine_threadsafe(cancel_all(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(loop.shutdown_asyncgens())
            resolvers.shutdown(wait=False, cancel_futures=True)
            loop.close()


async def cancel_all() -> None:
    """Cancel whatever else this loop is doing, and wait until it has stopped."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # transports that were closed just now let go of their sockets in the loop's next round
