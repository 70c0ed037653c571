"""Where a proxy makes the connections, our own checks of addresses see the proxy only: so the target is looked up and checked
here before its name is handed over.

The proxy then looks the name up by itself, and may find another address: what it can reach should be its business, too.
"""

import asyncio
from collections.abc import Sequence

from yarl import URL

from pairsift.stages.download.addresses import AddressRule, Resolver
from pairsift.stages.download.errors import FetchError, of_connecting
from pairsift.stages.fates import Failure


class TargetCheck:
    """Looks at the addresses of hosts that a proxy will be asked for. Lives on the network loop."""

    def __init__(self, allow_private: bool | Sequence[str]) -> None:
        self._rule = AddressRule(allow_private)
        self._resolver = Resolver(self._rule)

    async def check(self, url: URL, seconds: float) -> None:
        """Nothing is looked up where every address is allowed.

        Raises:
            FetchError: PRIVATE_ADDRESS; DNS_ERROR where the name does not resolve, also where it does not in `seconds`.
        """
        if self._rule.allows_all:
            return
        try:
            await asyncio.wait_for(self._resolver.resolve(url.raw_host or "", url.port or 0), seconds)
        except asyncio.TimeoutError as error:
            raise FetchError(Failure.DNS_ERROR, f"no answer in {seconds:g} s", again=False) from error
        except OSError as error:
            raise of_connecting(error) from error
