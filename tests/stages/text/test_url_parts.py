from typing import Any

import pytest

from pairsift.stages.text.url_parts import UrlParts

HOSTS = {
    "http://img.example.co.uk/a.jpg?b=http://other.com": ("img.example.co.uk", "example.co.uk"),
    "HTTPS://User:pw@CDN.Example.COM:8443/x": ("cdn.example.com", "example.com"),
    "http://bücher.example.de/1": ("xn--bcher-kva.example.de", "example.de"),
    "http://a.b.食狮.中国/": ("a.b.xn--85x722f.xn--fiqs8s", "xn--85x722f.xn--fiqs8s"),
    "http://who.blogspot.com/": ("who.blogspot.com", "blogspot.com"),
    "http://192.168.1.1/a": ("192.168.1.1", "192.168.1.1"),
    "http://[2001:db8::1]:80/a": ("2001:db8::1", "2001:db8::1"),
    "http://localhost/a": ("localhost", "localhost"),
    "http://co.uk/": ("co.uk", "co.uk"),
    "http://example.com./": ("example.com", "example.com"),
    "http://a.b.unknownsuffix/": ("a.b.unknownsuffix", "b.unknownsuffix"),
    "no url": (None, None),
    "http://[": (None, None),
    "http://[::1]:@": (None, None),
    "http://": (None, None),
    "data:image/png;base64,AAAA": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize("url", HOSTS)
def test_host_and_domain(answers: Any, url: str) -> None:
    found = answers(UrlParts(), [url, None])
    assert (found["host"][0], found["domain"][0]) == HOSTS[url]
    assert found["host"][1] is found["domain"][1] is None


def test_private_suffixes(answers: Any) -> None:
    urls = ["http://a.who.blogspot.com/", "http://img.example.co.uk/"]
    assert answers(UrlParts(private_suffixes=True), urls)["domain"] == ["who.blogspot.com", "example.co.uk"]
