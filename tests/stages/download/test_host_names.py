import pytest

from pairsift.stages.download.host_names import host_of, interleaved, is_loopback


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_by_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "", "0x7f000001"])
def test_not_loopback_by_name(host: str) -> None:
    assert not is_loopback(host)


def test_interleaving_goes_round_the_hosts_and_keeps_each_in_order() -> None:
    urls = ["http://a/1", "http://a/2", "HTTP://A/3", "http://b/1", None, "http://c/1", "http://b/2"]
    order = interleaved(range(len(urls)), map(host_of, urls))
    assert order == [0, 3, 4, 5, 1, 6, 2]
    assert interleaved([], []) == []
