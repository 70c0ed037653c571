import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.read.formats.columns import RESERVED, free_name, pick


def test_what_stages_write_is_reserved() -> None:
    assert {"ordinal", "key", "uid", "width", "sha256", "image_path", "failure", "status", "clip_similarity"} <= RESERVED


def test_free_name() -> None:
    assert free_name("license", {"url"}) == "license"
    assert free_name("Width", set()) == "source_Width"
    assert free_name("width", {"source_width"}) == "source_source_width"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (["SAMPLE_ID", "URL", "TEXT"], "columns: {url: URL, caption: TEXT}"),
        (["image_url", "top_caption"], "columns: {url: image_url, caption: top_caption}"),
        (["link"], "columns: {url: link}"),
        (["a", "b"], "columns: {url: …, caption: …}"),
    ],
)
def test_the_proposed_line_is_right_where_it_can_be_guessed(columns: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        pick(pa.schema([(name, pa.string()) for name in columns]), None, None, "a.csv")
    assert str(error.value).endswith(line)


def test_a_column_that_is_there_twice_is_refused_where_it_is_needed() -> None:
    found = pa.schema([("url", pa.string()), ("x", pa.string()), ("x", pa.string())])
    assert [theirs for theirs, _ in pick(found, None, [], "a.parquet")] == ["url"]
    with pytest.raises(ConfigError, match="'x' 2 times"):
        pick(found, None, None, "a.parquet")
    with pytest.raises(ConfigError, match="'x' 2 times"):
        pick(found, {"url": "x"}, [], "a.parquet")
