import pytest
from yarl import URL

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.urls import parse_url, redirect_target
from pairsift.stages.fates import Failure


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("http://example.com/a b.jpg", "http://example.com/a%20b.jpg"),
        ("http://example.com/a%20b%2Fc.jpg?x=1&y=%26", "http://example.com/a%20b%2Fc.jpg?x=1&y=%26"),
        ("HTTPS://Example.COM/ü", "https://example.com/%C3%BC"),
        ("http://müller.de/", "http://xn--mller-kva.de/"),
        ("\thttp://example.com/a.jpg \n", "http://example.com/a.jpg"),
        ("http://my_host.example.com:8080/", "http://my_host.example.com:8080/"),
    ],
)
def test_urls_are_read_as_a_browser_reads_them(text: str, quoted: str) -> None:
    assert str(parse_url(text)) == quoted


@pytest.mark.parametrize("text", [None, "", "x", "/a/b", "//example.com/", "http:///a", "http://a:99999/", "http://a%00b/"])
def test_what_is_no_url(text: str | None) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.failure is Failure.INVALID_URL
    assert not caught.value.again


@pytest.mark.parametrize(
    "text",
    ["http://[2001:db8::1]:@", "http://[2001:\0db8::1]/a", "http://[20.db8::1]/", "http://ü2001:db8::1:80/", "http://[::1"],
)
def test_what_yarl_trips_over_sooner_or_later_is_no_url(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.failure is Failure.INVALID_URL
    with pytest.raises(FetchError) as caught:
        redirect_target(URL("http://example.com/a"), text)
    assert caught.value.failure is Failure.INVALID_URL


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/c", "http://example.com/c"),
        ("../c?x", "http://example.com/c?x"),
        ("//other.example", "http://other.example"),
        ("https://[2001:db8::1]:8080/ ü", "https://[2001:db8::1]:8080/%20%C3%BC"),
    ],
)
def test_where_redirects_lead(location: str, target: str) -> None:
    assert str(redirect_target(URL("http://example.com/a/b"), location)) == target
