"""What a hostile web does to a list of URLs, and the fate that each row must have."""

from hostile import images
from hostile.server import Server

# With `timeout` and `min_rate` as in PARAMETERS. A set: which of them depends on how the bytes happened to be cut.
ANSWERS: dict[str, str | set[str]] = {
    "no_answer": "no_answer",
    "header_drip": "slow_headers",
    "headers_without_end": "headers_too_large",
    "header_without_end": "headers_too_large",
    "cookies_without_end": "headers_too_large",
    "status_line_without_end": "headers_too_large",
    "early_hints_without_end": {"headers_too_large", "slow_headers"},
    "body_drip": "too_slow",
    "body_stalls": "too_slow",
    "body_without_end": "too_many_bytes",
    "chunks_without_end": "too_many_bytes",
    "length_too_long": "incomplete_body",
    "length_too_short": {"truncated_image", "protocol_error"},
    "length_is_negative": "protocol_error",
    "length_is_huge": "protocol_error",
    "length_is_a_terabyte": "too_many_bytes",
    "two_lengths": "protocol_error",
    "length_and_chunks": "protocol_error",
    "chunk_size_is_no_number": "bad_chunks",
    "chunk_size_is_huge": "bad_chunks",
    "chunk_too_short": "bad_chunks",
    "no_last_chunk": "incomplete_body",
    "reset_at_once": "connection_reset",
    "reset_in_body": "connection_reset",
    "closed_at_once": "connection_lost",
    "not_http": "protocol_error",
    "http_0_9": "protocol_error",
    "nulls": "protocol_error",
    "null_in_header": "protocol_error",
    "switching_protocols": "protocol_error",
    "no_content": "empty_body",
    "empty": "empty_body",
    "error_without_end": "http_404",
    "redirect_nowhere": "protocol_error",
    "loop": "too_many_redirects",
    "gzip_bomb": "compression_bomb",
    "gzip_of_gzip": "bad_encoding",
    "gzip_broken": {"decode_error", "bad_encoding"},
    "gzip_cut": {"truncated_image", "bad_encoding"},
    "deflate_bomb": "compression_bomb",
    "coding/br": "bad_encoding",
    "coding/zstd": "bad_encoding",
    "coding/compress": "bad_encoding",
    "coding/gzip,br": "bad_encoding",
    "status/304": "protocol_error",
    "status/400": "http_4xx",
    "status/403": "http_403",
    "status/404": "http_404",
    "status/410": "http_410",
    "status/429": "http_429",
    "status/451": "http_4xx",
    "status/500": "http_5xx",
    "status/503": "http_503",
    "status/999": "protocol_error",
}

# These have the picture, whatever else they do.
HONEST = ("good", "many_cookies", "gzip_honest", "coding/identity", "redirect_with_body_without_end")

# Asked for directly, and as the target of a redirect.
NOT_TO_BE_CONNECTED_TO = {
    "http://127.0.0.2/": "private_address",
    "http://0.0.0.0/": "private_address",
    "http://169.254.169.254/latest/meta-data/": "private_address",
    "http://10.0.0.1/": "private_address",
    "http://172.16.0.1/": "private_address",
    "http://192.168.0.1/": "private_address",
    "http://100.64.0.1/": "private_address",
    "http://255.255.255.255/": "private_address",
    "http://[::1]/": "private_address",
    "http://[::]/": "private_address",
    "http://[::ffff:169.254.169.254]/": "private_address",
    "http://[::ffff:a9fe:a9fe]/": "private_address",
    "http://[64:ff9b::a9fe:a9fe]/": "private_address",
    "http://[2002:a9fe:a9fe::]/": "private_address",
    "http://[fd00::1]/": "private_address",
    "http://[fe80::1]/": "private_address",
    "http://2852039166/": "private_address",  # 169.254.169.254 in one decimal number
    "http://0xa9fea9fe/": "private_address",
    "http://0251.0376.0251.0376/": {"invalid_url", "private_address", "dns_error"},
    "http://169.254.43518/": "private_address",
    "http://user:word@169.254.169.254/": "private_address",
    "http://169.254.169.254.:80/": {"private_address", "invalid_url", "dns_error"},
    "file:///etc/passwd": "unsupported_scheme",
    "FILE:/etc/passwd": "unsupported_scheme",
    "ftp://127.0.0.1/a.jpg": "unsupported_scheme",
    "gopher://127.0.0.1:70/_": "unsupported_scheme",
    "data:image/png;base64,AAAA": "unsupported_scheme",
    "javascript:alert(1)": "unsupported_scheme",
}

# The only private address that may be connected to is the server's own, so that the others are refused in the same run.
PARAMETERS = {
    "allow_private_addresses": ["127.0.0.1/32"],
    "contact": "mailto:tests@example.org",
    "timeout": 4.5,
    "retries": 0,
    "max_bytes": 8_000_000,
    "min_rate": 2000,
    "resize_mode": "no",
}


def refused(server: Server) -> dict[str, str | set[str]]:
    """URL → code."""
    rows: dict[str, str | set[str]] = {server.url(path): code for path, code in ANSWERS.items()}
    rows |= {server.url(f"image/{name}"): code for name, (_, code) in images.REFUSED.items()}
    rows |= NOT_TO_BE_CONNECTED_TO
    rows |= {server.url(f"redirect/{url}"): code for url, code in NOT_TO_BE_CONNECTED_TO.items()}
    rows |= {
        f"https://127.0.0.1:{server.tls['self_signed']}/good": "certificate_error",
        f"https://127.0.0.1:{server.tls['expired']}/good": "certificate_error",
        f"https://127.0.0.1:{server.tls['wrong_host']}/good": "certificate_error",
        f"https://127.0.0.1:{server.mute}/good": "tls_timeout",
        f"https://127.0.0.1:{server.babble}/good": "tls_error",
        "http://no-such-name.invalid/": "dns_error",
    }
    return rows


def accepted(server: Server) -> list[str]:
    """URLs of pictures of `images.SIZE`."""
    return [server.url(path) for path in HONEST] + [server.url(f"image/{name}") for name in images.ACCEPTED]
