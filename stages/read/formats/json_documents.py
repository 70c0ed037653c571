"""JSON files as records: a list of objects, or one of the shapes that image lists come in.

- `[{…}, {…}]` is read object by object, whatever its size.
- `{"annotations": [{…}, …]}` (RedCaps), or any one list of objects in an object.
- `{"images": [{"id": 1, …}], "annotations": [{"image_id": 1, "caption": …}]}` (COCO): each image with the list of its captions.
- `{"images": [{"filename": …, "sentences": [{"raw": …}]}]}` (Karpathy's splits): the same.
- `{"image_urls": […], "captions": […]}` (SBU): a list of values for each column, all of one length.
- Lines of JSON, whatever the file is called.
"""

import io
import json
from collections.abc import Iterator
from typing import IO, Any

from pairsift.stages.base import ConfigError
from pairsift.stages.sources import open_source

MAX_DOCUMENT = 2 << 30  # bytes of a file that is one object: it is held in memory, at several times its size
MAX_ITEM = 64 << 20  # characters of one object in a list
_CHUNK = 1 << 20  # characters
_SPACE = " \t\r\n"

Record = dict[str, Any] | str  # or what is wrong


def json_records(uri: str) -> Iterator[Record]:
    """The file's records in order. Where it breaks off, one message for what follows.

    Raises:
        ConfigError: where its records cannot be told.
    """
    with open_source(uri, decompress=True) as raw:
        # Bytes that are not UTF-8 become halves of surrogate pairs, which whoever looks at the values finds.
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            yield from _records(text, uri)
        except (EOFError, OSError, ArithmeticError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield f"{uri} breaks off: {error}"
        finally:
            text.detach()


def _records(text: IO[str], uri: str) -> Iterator[Record]:
    start = text.read(_CHUNK)
    while start and not start.strip(_SPACE):
        start = text.read(_CHUNK)
    first = start.lstrip(_SPACE)[:1]
    if first == "[":
        yield from _items(text, start.lstrip(_SPACE)[1:], uri)
    elif first:
        document = start + text.read(MAX_DOCUMENT)
        if len(document) > MAX_DOCUMENT:
            raise ConfigError(
                f"{uri} is one JSON object of more than {MAX_DOCUMENT >> 30} GiB; for lines of JSON say input.format: jsonl"
            )
        yield from _of_document(document, uri)


def _items(text: IO[str], buffer: str, uri: str) -> Iterator[Record]:
    """The objects of a list whose bracket has been read."""
    decode = json.JSONDecoder().raw_decode
    position, number, want = 0, 0, _CHUNK
    while True:
        while position < len(buffer) and buffer[position] in _SPACE + ",":
            position += 1
        if buffer[position : position + 1] == "]":
            return
        try:
            item, end = decode(buffer, position)
            whole = end < len(buffer)  # else a number may go on
        except RecursionError:
            yield f"{uri}: nested too deeply after object {number}"
            return
        except ValueError:
            whole = False
        if not whole:
            more = text.read(want) if len(buffer) - position < MAX_ITEM else ""
            if not more:
                yield f"{uri} is no JSON after object {number}"
                return
            buffer, position, want = buffer[position:] + more, 0, want * 2
            continue
        position, number, want = end, number + 1, _CHUNK
        yield item if isinstance(item, dict) else f"{uri}: item {number} is no object"


def _of_document(document: str, uri: str) -> Iterator[Record]:
    try:
        found = json.loads(document)
    except RecursionError:
        yield f"{uri}: nested too deeply"
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from _lines(document, uri)
        else:
            yield f"{uri} is no JSON: {error}"
    else:
        yield from _shaped(found, uri) if isinstance(found, dict) else [f"{uri} is no list of objects"]


def _lines(document: str, uri: str) -> Iterator[Record]:
    for number, line in enumerate(document.splitlines(), 1):
        if line.strip():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"{uri} line {number}: not JSON: {error}"
            else:
                yield found if isinstance(found, dict) else f"{uri} line {number}: no object"


def _shaped(found: dict[str, Any], uri: str) -> Iterator[Record]:
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    objects = [name for name, value in lists.items() if value and all(isinstance(item, dict) for item in value)]
    if {"images", "annotations"} <= lists.keys() and any("image_id" in item for item in _objects(lists["annotations"])):
        yield from _coco(lists["images"], lists["annotations"], uri)
    elif "annotations" in objects or len(objects) == 1:
        yield from map(_with_sentences, lists["annotations" if "annotations" in objects else objects[0]])
    elif lists and not objects and len({len(value) for value in lists.values()}) == 1:
        names = list(lists)
        yield from (dict(zip(names, values, strict=True)) for values in zip(*lists.values(), strict=True))
    elif found and not lists:
        yield found  # a list of one, without its brackets
    else:
        raise ConfigError(f"{uri}: which of {', '.join(found) or 'nothing'} are the rows? Make it a list of objects")


def _with_sentences(item: dict[str, Any]) -> dict[str, Any]:
    sentences = item.get("sentences")
    if "caption" in item or not isinstance(sentences, list) or not all("raw" in found for found in _objects(sentences)):
        return item
    rest = {name: value for name, value in item.items() if name not in ("sentences", "sentids")}
    return {**rest, "caption": [found["raw"] for found in _objects(sentences)]}


def _objects(items: list[Any]) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict))


def _coco(images: list[Any], annotations: list[Any], uri: str) -> Iterator[Record]:
    """Images in their order, each with its captions in theirs; then captions of images that are not listed."""
    captions: dict[Any, list[Any]] = {}
    for item in _objects(annotations):
        captions.setdefault(str(item.get("image_id")), []).append(item.get("caption"))
    for number, image in enumerate(images, 1):
        if isinstance(image, dict):
            yield {**image, "caption": captions.pop(str(image.get("id")), [])}
        else:
            yield f"{uri}: image {number} is no object"
    for key, texts in captions.items():
        yield {"id": key, "caption": texts}
