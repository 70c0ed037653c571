"""A name server under a stranger's control: real DNS over UDP, with answers that change from query to query."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence

_A, _IN = 1, 1


class NameServer:
    """Answers the n-th query for a name's A records with the n-th of its answers, and with the last from then on; it has no
    AAAA records. `asked` counts the queries for A."""

    def __init__(self, answers: dict[str, Sequence[Sequence[str]]], port: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self._answers = answers
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        name, end = read_name(query, 12)
        kind = struct.unpack_from(">H", query, end)[0]
        known = self._answers.get(name)
        addresses: Sequence[str] = ()
        if known and kind == _A:
            addresses = known[min(self.asked[name], len(known) - 1)]
            self.asked[name] += 1
        flags = 0x8580 | (0 if known else 3)  # an authoritative answer; 3: there is no such name
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(addresses), 0, 0)
        records = [b"\xc0\x0c" + struct.pack(">HHIH", _A, _IN, 0, 4) + socket.inet_aton(address) for address in addresses]
        return head + query[12 : end + 4] + b"".join(records)


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """A name that is not compressed, in lower case, and where it ends."""
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1


def look_up(name: str, port: int) -> list[str]:
    """The A records that the server on that port of loopback gives for a name."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack(">HH", _A, _IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(b"\x12\x34" + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + question, ("127.0.0.1", port))
        answer = asking.recv(4096)
    count, at = struct.unpack_from(">H", answer, 6)[0], 12 + len(question)
    return [socket.inet_ntoa(answer[start + 12 : start + 16]) for start in range(at, at + 16 * count, 16)]
