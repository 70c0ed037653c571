from typing import Any

import pytest

from pairsift.stages.text.url_normalised import UrlNormalised

EQUAL = {
    "http://example.com/": [
        "HTTP://Example.COM",
        "http://example.com:80/#top",
        " http://example.com./ ",
        "http://example.com/a/..",
    ],
    "http://example.com/%C3%A9%2F": ["http://example.com/é%2f", "http://example.com/%c3%a9%2F"],
    "http://example.com/a.jpg?a=1&b=2": [
        "http://example.com/a.jpg?b=2&a=1",
        "http://example.com/a.jpg?utm_source=x&b=2&UTM_Medium=y&a=1&fbclid=z",
        "http://example.com/./a.jpg?a=1&b=2#frag",
    ],
    "http://example.com/a.jpg": ["http://example.com/a.jpg?gclid=1", "http://example.com/a.jpg?"],
    "http://example.com/?x=2&x=1": ["http://example.com/?x=2&x=1"],
    "http://xn--bcher-kva.de/": ["http://bücher.de/", "http://BÜCHER.de"],
    "https://example.com/": ["https://example.com:443"],
    "http://example.com:8080/": ["http://EXAMPLE.com:8080"],
}


@pytest.mark.parametrize("normal", EQUAL)
def test_spellings_of_one_url(answers: Any, normal: str) -> None:
    assert answers(UrlNormalised(), EQUAL[normal])["url_normalised"] == [normal] * len(EQUAL[normal])
    assert answers(UrlNormalised(), [normal])["url_normalised"] == [normal], "what is normal stays as it is"


def test_what_asks_for_something_else_stays_apart(answers: Any) -> None:
    urls = [
        "http://a/b",
        "http://a/B",
        "http://a/b/",
        "https://a/b",
        "http://a:81/b",
        "http://www.a/b",
        "http://a/b?x=1",
        "http://a/b?X=1",
    ]
    assert len(set(answers(UrlNormalised(), urls)["url_normalised"])) == len(urls)
    assert len(set(answers(UrlNormalised(schemes=False), urls)["url_normalised"])) == len(urls) - 1


def test_parameters_to_leave_out(answers: Any) -> None:
    url = "http://a/?w=1&utm_id=2&sig.x=3"
    assert answers(UrlNormalised(drop=["W", "sig?x"]), [url])["url_normalised"] == ["http://a/?utm_id=2"]
    assert answers(UrlNormalised(drop=[]), [url])["url_normalised"] == ["http://a/?sig.x=3&utm_id=2&w=1"]


def test_what_is_no_url(answers: Any) -> None:
    texts = [None, "", "no url", "http://", "http://[", "http://[::1]:@", "data:image/png;base64,AA", "/a.jpg", "http://a:b/"]
    assert answers(UrlNormalised(), texts)["url_normalised"] == [None] * len(texts)
