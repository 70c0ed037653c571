"""Where a proxy makes the connections, our own checks of addresses see the proxy only: so the target is looked up and checked
here before its name is handed over.

The proxy then looks the name up by itself, and may find another address: what it can reach should be its business, too.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from yarl import URL

from pairsift.stages.download.addresses import AddressRule, PrivateAddressError, Resolver
from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

_FRESH_SECONDS = 300.0  # how long an answer holds
_MAX_HOSTS = 10_000


class TargetCheck:
    """Looks at the addresses of hosts that a proxy will be asked for. Lives on the network loop."""

    def __init__(self, allow_private: bool | Sequence[str]) -> None:
        self._rule = AddressRule(allow_private)
        self._resolver = Resolver(self._rule)
        self._fine: OrderedDict[tuple[str, int], float] = OrderedDict()  # host and port → until when, on the loop's clock

    async def check(self, url: URL, seconds: float) -> None:
        """Nothing is looked up where every address is allowed.

        Raises:
            FetchError: PRIVATE_ADDRESS; DNS_ERROR where the name does not resolve, also where it does not in `seconds`.
        """
        if self._rule.allows_all:
            return
        host = (url.raw_host or "", url.port or 0)
        now = asyncio.get_running_loop().time()
        if self._fine.get(host, 0.0) > now:
            return
        try:
            found = await asyncio.wait_for(self._resolver.resolve(*host), seconds)
        except PrivateAddressError as error:
            raise FetchError(Failure.PRIVATE_ADDRESS, str(error)) from error
        except asyncio.TimeoutError as error:
            raise FetchError(Failure.DNS_ERROR, f"no answer in {seconds:g} s", again=False) from error
        except OSError as error:
            raise FetchError(Failure.DNS_ERROR, str(error)) from error
        if not found:
            raise FetchError(Failure.DNS_ERROR, f"{host[0]} has no address", again=False)
        self._fine[host] = now + _FRESH_SECONDS
        while len(self._fine) > _MAX_HOSTS:
            self._fine.popitem(last=False)
