"""The stage as the engine uses it: tables in, tables out, faults as data."""

import asyncio
import gc
import hashlib
import pickle
import socket
import threading
import time
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pairsift.stages.download import Download
from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions


def failures(table: pa.Table) -> list[str | None]:
    return list(table.column("failure").to_pylist())


def urls_table(urls: list[str]) -> pa.Table:
    return pa.table({"ordinal": pa.array(range(len(urls)), pa.int64()), "url": urls})


def test_a_photograph_becomes_the_columns_it_should(server: Any, download: Any) -> None:
    row = download([server.url("/good/1.jpg")]).to_pylist()[0]
    expected = prepare(server.photo, ImageOptions())
    assert row.pop("image") == expected.data
    assert row.pop("exif") == "{}"
    assert row == {
        "image_format": "jpg",
        "width": 256,
        "height": 256,
        "original_width": 640,
        "original_height": 427,
        "original_bytes": len(server.photo),
        "original_format": "jpg",
        "sha256": hashlib.sha256(server.photo).hexdigest(),
        "failure": None,
        "failure_detail": None,
    }


def test_adds_what_it_says_and_no_more(server: Any, download: Any) -> None:
    for parameters in ({}, {"extract_exif": False, "compute_hash": None}):
        table = download([server.url("/good"), None], **parameters)
        extra = [name for name in table.column_names if name not in ("failure", "failure_detail")]
        assert table.select(extra).schema == Download.model_validate(parameters).writes()


FAULTS = {
    None: "invalid_url",
    "": "invalid_url",
    "   ": "invalid_url",
    "example.com/no/scheme.jpg": "invalid_url",
    "http://": "invalid_url",
    "http://[::1/broken": "invalid_url",
    "http://two words/": "invalid_url",
    "file:///etc/passwd": "unsupported_scheme",
    "ftp://127.0.0.1/a.jpg": "unsupported_scheme",
    "data:image/png;base64,AAAA": "unsupported_scheme",
    "http://no-such-host.invalid/a.jpg": "dns_error",
    "http://" + "a" * 70 + ".invalid/a.jpg": "dns_error",
    "/status/403": "http_403",
    "/status/404": "http_404",
    "/status/410": "http_410",
    "/status/418": "http_4xx",
    "/status/429": "http_429",
    "/status/500": "http_5xx",
    "/status/503": "http_503",
    "/status/304": "protocol_error",
    "/redirect": "protocol_error",
    "/gibberish": "protocol_error",
    "/bad_gzip": "bad_encoding",
    "/loop": "too_many_redirects",
    "/redirect?to=file:///etc/passwd": "unsupported_scheme",
    "/redirect?to=http://[broken": "invalid_url",
    "/reset": "connection_lost",
    "/short": "incomplete_body",
    "/empty": "empty_body",
    "/endless": "too_many_bytes",
    "/bomb": "compression_bomb",
    "/html": "html_page",
    "/truncated": "truncated_image",
    "/tiny": "too_small",
}


def test_every_fault_has_its_code_and_harms_no_neighbour(server: Any, download: Any) -> None:
    urls: list[str | None] = []
    for url in FAULTS:
        urls += [server.url(url) if url and url.startswith("/") else url, server.url("/good")]
    table = download(urls, min_image_size=2, max_bytes=1_000_000)
    assert dict(zip(FAULTS, failures(table)[::2], strict=True)) == FAULTS
    assert failures(table)[1::2] == [None] * len(FAULTS)
    assert len(set(table.column("image").to_pylist()[1::2])) == 1
    for row in table.to_pylist()[::2]:
        assert row["failure_detail"]
        assert all(value is None for name, value in row.items() if not name.startswith("failure")), row


def test_refused_connections_and_failed_handshakes(server: Any, download: Any) -> None:
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        table = download([refused, server.url("/good").replace("http:", "https:")])
    assert failures(table) == ["connect_error", "tls_error"]


@pytest.mark.parametrize(("path", "code"), [("/hangs", "no_answer"), ("/drips", "timeout")])
def test_the_deadline_is_for_the_whole_answer(server: Any, download: Any, path: str, code: str) -> None:
    started = time.monotonic()
    table = download([server.url(path), server.url("/good")], timeout=0.4, retries=2)
    assert failures(table) == [code, None]
    assert time.monotonic() - started < 6  # seconds; without a deadline it would be 30
    assert server.requests[path] == 1  # asking again would take as long again


def test_the_queue_does_not_count_towards_the_deadline(server: Any, download: Any) -> None:
    urls = [server.url("/slowly/250") + f"?{i}" for i in range(4)]
    assert failures(download(urls, connections=1, timeout=0.6)) == [None] * 4


def test_transient_faults_are_asked_again_and_others_are_not(server: Any, download: Any) -> None:
    table = download([server.url("/flaky"), server.url("/status/404"), server.url("/status/500")], retries=1)
    assert failures(table) == [None, "http_404", "http_5xx"]
    assert server.requests == {"/flaky": 2, "/status/404": 1, "/status/500": 2}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_in_any_spelling(server: Any, download: Any, host: str) -> None:
    url = server.url("/good").replace("127.0.0.1", host)
    assert failures(download([url], allow_private_addresses=False)) == ["private_address"]
    assert not server.requests


def test_redirects_are_followed_as_far_as_allowed(server: Any, download: Any) -> None:
    once = server.url("/redirect?to=/good")
    twice = server.url(f"/redirect?to={once}")
    assert failures(download([once, twice], max_redirects=1)) == [None, "too_many_redirects"]
    assert failures(download([once], max_redirects=0)) == ["too_many_redirects"]


def test_urls_are_quoted_and_stripped(server: Any, download: Any) -> None:
    assert failures(download([server.url("/unicode/a b/ü.jpg"), f"  {server.url('/unicode/a%20b/%C3%BC.jpg')}\n"])) == [
        None,
        None,
    ]


def test_an_encoded_body_is_decoded_before_it_is_hashed(server: Any, download: Any) -> None:
    table = download([server.url("/gzipped"), server.url("/good")])
    assert failures(table) == [None, None]
    assert len(set(table.column("sha256").to_pylist())) == 1


def test_alpha_is_laid_on_white(server: Any, download: Any) -> None:
    row = download([server.url("/alpha")], resize_mode="no", encode_format="png", encode_quality=3).to_pylist()[0]
    assert (row["image_format"], row["width"], row["height"]) == ("png", 40, 30)
    assert row["image"] != server.alpha_png


def test_order_and_bytes_do_not_depend_on_who_is_first(server: Any, download: Any) -> None:
    paths = ["/slowly/300", "/good", "/alpha", "/slowly/100", "/html"]
    tables = [download([server.url(p) for p in order]) for order in (paths, paths[::-1])]
    assert tables[0].to_pylist() == tables[1].to_pylist()[::-1]


def test_two_units_download_at_the_same_time_and_share_the_budget(server: Any) -> None:
    stage = Download.model_validate({"allow_private_addresses": True, "connections": 4, "retries": 0})
    units = [urls_table([server.url(f"/meet/{unit}/{i}") for i in range(2)]) for unit in "ab"]
    crowd = [urls_table([server.url(f"/slowly/20?{unit}{i}") for i in range(12)]) for unit in "ab"]

    async def both(transform: Any, tables: list[pa.Table]) -> list[pa.Table]:
        return list(await asyncio.gather(*(transform(table) for table in tables)))

    with stage.open() as transform:
        met = asyncio.run(both(transform, units))
        assert [failures(table) for table in met] == [[None, None], [None, None]]
        crowded = asyncio.run(both(transform, crowd))
        assert [failures(table) for table in crowded] == [[None] * 12] * 2
    assert server.most_at_a_time == 4


def test_leaves_nothing_behind_even_when_left_in_the_middle(server: Any) -> None:
    stage = Download.model_validate({"allow_private_addresses": True, "retries": 0})

    async def give_up(transform: Any) -> None:
        await asyncio.wait_for(transform(urls_table([server.url("/hangs"), server.url("/drips")])), 0.3)

    with stage.open() as transform, pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up(transform))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pairsift")]
    gc.collect()  # an unclosed session or socket would warn now, and warnings are errors


def test_a_program_error_is_raised() -> None:
    stage = Download()

    async def wrong_type(transform: Any) -> None:
        await transform(pa.table({"url": pa.array([7], pa.int64())}))

    with stage.open() as transform, pytest.raises(AttributeError):
        asyncio.run(wrong_type(transform))


def test_says_who_asks(server: Any, download: Any) -> None:
    download([server.url("/good")], contact="mailto:crawl@example.org", user_agent_token="our-corpus")
    (agent,) = server.user_agents
    assert agent.startswith("our-corpus pairsift/")
    assert agent.endswith("(+mailto:crawl@example.org)")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"contact": "a\r\nX-Evil: 1"}, {"user_agent_token": ""}, {"timeout": 0}, {"timout": 5}, {"encode_format": "png"}),
        *({"proxy": "http://a:99999"}, {"resources": {"workers": 0}}, {"resources": {"workers": [2, 1]}}),
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Download.model_validate(wrong)


def test_only_what_changes_results_is_science() -> None:
    science = Download().science()
    assert {"timeout", "retries", "connections", "contact", "per_host", "proxy", "resources"}.isdisjoint(science)
    assert {"image_size", "max_bytes", "allow_private_addresses", "compute_hash", "robots", "content_usage"} <= set(science)
    assert pickle.loads(pickle.dumps(Download())) == Download()
