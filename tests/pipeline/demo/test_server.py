import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

import cv2
import numpy as np
import pytest

from pairsift.pipeline.demo.server import Answer, serve

PHOTO = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))[1].tobytes()
FILES = {"one.jpg": Answer(PHOTO), "two words.png": Answer(b"other", "image/png")}


@pytest.fixture
def base_url():
    with serve(FILES) as url:
        yield url


def get(url, timeout=5.0):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_files_are_served_with_their_type(base_url):
    assert get(f"{base_url}/photos/one.jpg") == (200, "image/jpeg", PHOTO)
    assert get(f"{base_url}/photos/two%20words.png?size=large") == (200, "image/png", b"other")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/missing/x.jpg", 404), ("/photos/none.jpg", 404), ("/robots.txt", 404), ("/gone.jpg", 410), ("/error.jpg", 500)],
)
def test_error_statuses(base_url, path, status):
    assert get(base_url + path)[0] == status


def test_a_page_poses_as_an_image(base_url):
    status, content_type, body = get(f"{base_url}/page.jpg")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert b"<html>" in body


def test_the_truncated_file_is_a_complete_answer_with_half_an_image(base_url):
    status, content_type, body = get(f"{base_url}/truncated.jpg")
    assert (status, content_type) == (200, "image/jpeg")
    assert body == PHOTO[: len(PHOTO) // 2]


def test_the_tiny_image_is_an_image(base_url):
    body = get(f"{base_url}/tiny.jpg")[2]
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED).shape == (8, 8, 3)


def test_a_slow_path_is_not_answered_while_others_are(base_url):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, f"{base_url}/slow/x.jpg", 0.5)
        assert get(f"{base_url}/photos/one.jpg")[0] == 200
        with pytest.raises(TimeoutError):
            slow.result()


def test_it_closes_at_once_though_clients_wait_and_drops_them():
    with ThreadPoolExecutor(1) as pool:
        with serve(FILES) as base_url:
            slow = pool.submit(get, f"{base_url}/slow/x.jpg", 30)
            time.sleep(0.2)  # seconds; until the slow request is with its handler
            assert not slow.done()
            closing_since = time.monotonic()
        with pytest.raises((HTTPException, OSError)):
            slow.result(timeout=5)
        assert time.monotonic() - closing_since < 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(base_url.rpartition(":")[2])), timeout=2)


def test_connections_are_reused(base_url):
    connection = HTTPConnection(base_url.removeprefix("http://"), timeout=5)
    for path in ("/photos/one.jpg", "/missing/x.jpg", "/photos/one.jpg"):
        connection.request("GET", path)
        connection.getresponse().read()
        assert connection.sock is not None
    connection.close()


def test_it_says_nothing(capfd):
    with serve(FILES) as base_url:
        get(f"{base_url}/photos/one.jpg")
        get(f"{base_url}/missing/x.jpg")
        with pytest.raises(TimeoutError):
            get(f"{base_url}/slow/x.jpg", 0.1)
    assert capfd.readouterr() == ("", "")
