import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from pairsift.stages.download.consent import Consent, forbidding, training_refused, usage
from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
US = frozenset({"pairsift", "our-corpus"})


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["noai"], "noai"),
        (["NoAI, nofollow"], "noai"),
        (["nofollow", " noimageindex "], "noimageindex"),
        (["all"], None),
        (["noaix"], None),
        (["otherbot: noindex"], None),
        (["pairsift: noindex"], "noindex"),
        (["Our-Corpus: nofollow, noai"], "noai"),
        (["noai, otherbot: nofollow"], "noai"),  # two headers that were joined on their way
        (["otherbot: nofollow, noai"], None),
        (["otherbot: nofollow, pairsift: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 GMT, noindex"], "noindex"),
        (["unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noindex"], "noindex"),
        (["*: noai"], "noai"),
        (["none"], None),  # none of DIRECTIVES: see test_none_is_noindex
        ([":"], None),
        ([""], None),
    ],
)
def test_x_robots_tag(values: list[str], found: str | None) -> None:
    assert forbidding(values, US, DIRECTIVES) == found


def test_none_is_noindex() -> None:
    headers = CIMultiDictProxy(CIMultiDict({"X-Robots-Tag": "None"}))
    with pytest.raises(FetchError) as caught:
        Consent(US, DIRECTIVES, tdm=True, content_usage=True).check(headers)
    assert caught.value.failure is Failure.X_ROBOTS_TAG
    Consent(US, ["noai"], tdm=True, content_usage=True).check(headers)


@pytest.mark.parametrize("value", ["noai", "all", "otherbot: noindex", "pairsift: noai", "nofollow,NOINDEX"])
def test_x_robots_tag_as_img2dataset_reads_it(value: str) -> None:
    from email.message import Message

    downloader = pytest.importorskip("img2dataset.downloader")
    headers = Message()
    headers["X-Robots-Tag"] = value
    expected = downloader.is_disallowed(headers, "pairsift", DIRECTIVES)
    assert (forbidding([value], frozenset({"pairsift"}), DIRECTIVES) is not None) == expected


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("train-ai=n", {"train-ai": "n"}),
        ("train-ai=n, search=y", {"train-ai": "n", "search": "y"}),
        ("train-ai=y,\ttrain-ai=n", {"train-ai": "n"}),  # the last counts
        ('train-ai=n;exceptions=("a" "b");x', {}),  # no inner list is a parameter's value
        ('train-ai=n;note="a, b=c";x, other=("a" 1.5;p ?1)', {"train-ai": "n"}),
        ("train-ai", {}),
        ("train-ai=?0", {}),
        ('train-ai="n"', {}),
        ("train-ai=no", {}),
        ("Train-AI=n", {}),
        ("train-ai=n,", {}),
        ("train-ai=n search=y", {}),
        ("", {}),
    ],
)
def test_content_usage_is_a_dictionary(value: str, members: dict[str, str]) -> None:
    assert usage(value) == members


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("train-ai=n", True),
        ("train-ai=y", False),
        ("search=n, ai-use=n", False),
        ("bots=n", True),
        ("bots=n, train-ai=y", False),
        ("train-genai=n, train-ai=y", True),
        ("tdm=n", True),
        ("nonsense=n", False),
    ],
)
def test_who_refuses_training(value: str, refused: bool) -> None:
    assert training_refused(value) is refused


def test_a_long_header_is_no_trap() -> None:
    assert usage("a=(" * 5000) == {}
    assert usage("a;" * 5000) == {}
    assert len(usage(", ".join(f"k{i}=y" for i in range(2000)))) == 2000


@pytest.mark.parametrize(
    ("headers", "failure"),
    [
        ({"X-ROBOTS-TAG": "noai"}, Failure.X_ROBOTS_TAG),
        ({"tdm-reservation": "1", "tdm-policy": "https://a.example/policy"}, Failure.TDM_RESERVATION),
        ({"TDM-Reservation": "0"}, None),
        ({"TDM-Reservation": "yes"}, None),
        ({"content-usage": "train-ai=n"}, Failure.CONTENT_USAGE),
        ({"Content-Type": "image/jpeg"}, None),
    ],
)
def test_headers(headers: dict[str, str], failure: Failure | None) -> None:
    seen = CIMultiDictProxy(CIMultiDict(headers))
    Consent(US, [], tdm=False, content_usage=False).check(seen)
    consent = Consent(US, DIRECTIVES, tdm=True, content_usage=True)
    if failure is None:
        consent.check(seen)
        return
    with pytest.raises(FetchError) as caught:
        consent.check(seen)
    assert caught.value.failure is failure
    assert not caught.value.again
    assert str(caught.value)
