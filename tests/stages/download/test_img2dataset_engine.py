"""What the engine of img2dataset is kept from, and how its messages are read. Its results: test_parity.py."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.download import Download
from pairsift.stages.fates import Failure
from pairsift.stages.img2dataset_messages import fetch_failure, resize_failure

AS_IT_DOES = {
    "engine": "img2dataset",
    "allow_private_addresses": True,
    "robots": False,
    "tdm_reservation": False,
    "content_usage": False,
    "orientation": "ignore",
}


def run(urls: list[str | None], **parameters: Any) -> list[dict[str, Any]]:
    stage = Download.model_validate({**AS_IT_DOES, "timeout": 5, "retries": 0, **parameters})
    stage.check()

    async def go(transform: Any) -> Any:
        return await transform(pa.table({"url": pa.array(urls, pa.string())}))

    with stage.open() as transform:
        return list(asyncio.run(go(transform)).to_pylist())


def test_a_config_must_say_what_the_engine_does_not_check() -> None:
    with pytest.raises(ConfigError) as caught:
        Download(engine="img2dataset", robots=False).check()
    assert str(caught.value).endswith(
        "say so: allow_private_addresses: true, tdm_reservation: false, content_usage: false, orientation: ignore"
    )
    Download.model_validate(AS_IT_DOES).check()
    with pytest.raises(ConfigError, match="has no max_bytes"):
        Download.model_validate({**AS_IT_DOES, "max_bytes": 10}).check()


def test_files_of_this_machine_are_not_read(server: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(server.photo)
    urls = [
        f"file://{secret}",
        f"FILE:{secret}",
        f"<file://{secret}>",
        f"URL:file://{secret}",
        f" file://{secret}",
        "ftp://127.0.0.1/a",
    ]
    assert {row["failure"] for row in run([*urls])} == {"unsupported_scheme"}
    found = run([None, "", "no scheme", server.url(f"/redirect?to=file://{secret}"), server.url("/good")])
    assert [row["failure"] for row in found] == ["invalid_url", "invalid_url", "invalid_url", "protocol_error", None]


def test_consent_in_headers_is_the_one_thing_it_asks_for(server: Any) -> None:
    async def marked(_: Any) -> Any:
        from aiohttp import web

        return web.Response(body=server.photo, headers={"X-Robots-Tag": "noai"})

    server.marked = marked
    url = server.url("/marked")
    assert [row["failure"] for row in run([url])] == ["x_robots_tag"]
    assert [row["failure"] for row in run([url], disallowed_header_directives=[])] == [None]


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("HTTP Error 404: Not Found", Failure.HTTP_404),
        ("HTTP Error 451: Unavailable For Legal Reasons", Failure.HTTP_4XX),
        ("HTTP Error 503: Service Unavailable", Failure.HTTP_5XX),
        ("<urlopen error [Errno -2] Name or service not known>", Failure.DNS_ERROR),
        ("<urlopen error [Errno 111] Connection refused>", Failure.CONNECT_ERROR),
        ("<urlopen error timed out>", Failure.TIMEOUT),
        ("The read operation timed out", Failure.TIMEOUT),
        (
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed (_ssl.c:1)>",
            Failure.CERTIFICATE_ERROR,
        ),
        ("<urlopen error [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)>", Failure.TLS_ERROR),
        ("[Errno 104] Connection reset by peer", Failure.CONNECTION_LOST),
        ("Remote end closed connection without response", Failure.CONNECTION_LOST),
        ("Use of image disallowed by X-Robots-Tag directive", Failure.X_ROBOTS_TAG),
        ("something new", Failure.PROTOCOL_ERROR),
    ],
)
def test_messages_of_its_fetch(message: str, failure: Failure) -> None:
    assert fetch_failure(message) is failure


def test_messages_of_its_resizer() -> None:
    assert resize_failure("image too small") is Failure.TOO_SMALL
    assert resize_failure("Image decoding error") is Failure.DECODE_ERROR


def test_it_is_imported_only_when_asked_for_and_then_quietly() -> None:
    code = """
import sys
from pairsift.stages.download import Download
assert "img2dataset" not in sys.modules and "albumentations" not in sys.modules
stage = Download(engine="img2dataset")
assert "img2dataset" not in sys.modules
with stage.open():
    assert "img2dataset" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_package_the_config_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "img2dataset", None)  # as import does where there is none
    with pytest.raises(ConfigError, match=r"needs img2dataset: pip install 'pairsift\[img2dataset\]'"):
        Download.model_validate(AS_IT_DOES).check()
