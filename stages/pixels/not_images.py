"""What a body is that is no image, by its first bytes: the pages, films and archives that stand where an image should.

The marks of HTML are those of the WHATWG's MIME Sniffing Standard (section 7.1); the other formats begin with their own magic.
"""

import re

from pairsift.stages.fates import Failure

_LOOKED_AT = 1024  # bytes; XML may say a good deal before its first element
_BLANK = b"\xef\xbb\xbf \t\r\n\x0c\0"  # with UTF-8's byte order mark
_HTML = re.compile(
    rb"<!doctype html|<(?:html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta|center|span)[\s/>]",
    re.IGNORECASE,
)
_MARKUP = re.compile(rb"<[?!a-z]", re.IGNORECASE)
_FIRST_ELEMENT = re.compile(rb"<(?:!doctype\s+)?(svg|html)\b", re.IGNORECASE)
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ARCHIVES = (*_ZIPS, b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"MSCF")
_MATROSKA, _ASF = b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_FILMS = (_MATROSKA, _ASF, b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"OggS", b"ID3")
_FILM_BOXES = (b"moov", b"mdat", b"free", b"skip", b"wide")  # QuickTime's, which may come without `ftyp`
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"jxl ", b"crx ")  # in ISO files, as films are
_TS_PACKET = 188  # bytes of an MPEG transport stream's packet, each of which begins with 0x47


def what_else(data: bytes) -> Failure:
    """HTML_PAGE, SVG, PDF, VIDEO, ARCHIVE, or NOT_AN_IMAGE where it is none of these."""
    if data.startswith(_ARCHIVES) or data[257:262] == b"ustar":
        return Failure.ARCHIVE
    if _is_film(data):
        return Failure.VIDEO
    head = data[:_LOOKED_AT]
    if b"%PDF-" in head:
        return Failure.PDF
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16: its ASCII is every second byte
        head = head[2:].replace(b"\0", b"")
    return _markup(head.lstrip(_BLANK))


def _markup(text: bytes) -> Failure:
    if _HTML.match(text):
        return Failure.HTML_PAGE
    if not _MARKUP.match(text):
        return Failure.NOT_AN_IMAGE
    first = _FIRST_ELEMENT.search(text)
    if first is not None:
        return Failure.SVG if first[1].lower() == b"svg" else Failure.HTML_PAGE
    return Failure.HTML_PAGE if text.startswith(b"<!--") else Failure.NOT_AN_IMAGE


def _is_film(data: bytes) -> bool:
    if data.startswith(_FILMS) or data[4:8] in _FILM_BOXES:
        return True
    if data[4:8] == b"ftyp":
        return data[8:12] not in _PICTURE_BRANDS
    if data[:4] == b"RIFF":
        return data[8:12] in (b"AVI ", b"WAVE")
    return data[:1] == data[_TS_PACKET : _TS_PACKET + 1] == data[2 * _TS_PACKET : 2 * _TS_PACKET + 1] == b"\x47"
