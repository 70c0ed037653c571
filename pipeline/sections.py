"""The sections of a config that are no list of entries: `shards`, `release`, `guard`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Shards(BaseModel):
    """How kept rows are cut into shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(10_000, gt=0, description="samples per shard; only the last of a generation may hold fewer")
    max_bytes: int | None = Field(
        None, gt=0, description="a shard ends before the sample that would make its tar larger; each has one at least"
    )
    shuffle_seed: int | None = Field(
        None, description="put each generation's rows into an order that depends on this number and on their uids alone"
    )
    tail: Literal["short", "hold"] = Field(
        "short", description="hold: rows that do not fill a shard wait for the next generation, which begins with them"
    )
    layout: Literal["full", "img2dataset"] = Field(
        "full",
        description="img2dataset: shards of so many input rows, as it makes them, keys included: all of them in the Parquet, "
        "those that were kept in the tar",
    )
    keys: Literal["ordinal", "source"] = Field(
        "ordinal", description="source: samples are called as in the dataset that was read, as far as that can be"
    )
    embeddings: Literal["clip-retrieval"] | None = Field(
        None, description="clip-retrieval: the samples' vectors in OUTPUT/embeddings, in its layout, a file for each shard"
    )

    @model_validator(mode="after")
    def _fits_the_layout(self) -> "Shards":
        asked = {
            "max_bytes": self.max_bytes is not None,
            "shuffle_seed": self.shuffle_seed is not None,
            "tail: hold": self.tail == "hold",
            "keys: source": self.keys == "source",
        }
        for name, there in asked.items():
            if there and self.lists_all:
                raise ValueError(f"{name} does not go with layout: img2dataset, whose shards are runs of `rows` input rows")
        return self

    @property
    def lists_all(self) -> bool:
        """Whether a shard's Parquet has the rows that its tar has not."""
        return self.layout == "img2dataset"


class Guard(BaseModel):
    """When a run that loses rows is stopped, and when one that ended well is called partial."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_failed: float = Field(
        0.95, ge=0, le=1, description="share of a stage's rows that may fail before the run is stopped; 1: any"
    )
    max_rejected: float = Field(
        0.995,
        ge=0,
        le=1,
        description="share of the rows that a rule sees which it may take before the run is stopped; 1: any",
    )
    after: int = Field(1000, ge=1, description="rows that a stage or rule must have seen before it is judged")
    partial: float = Field(
        0.75, ge=0, le=1, description="share of all rows with a failure above which a finished run's exit code is 3; 1: never"
    )


class Release(BaseModel):
    """A table of the kept rows, without images: OUTPUT/metadata/00000.parquet and on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, str] | Literal["laion", "datacomp"] = Field(
        "laion",
        description="name: SQL over the ledger's columns, such as {URL: url, similarity: clip_similarity}; laion, datacomp: "
        "those of their columns that are known",
    )
    rows: int = Field(1_000_000, gt=0, description="rows per file; only the last may hold fewer")
    subset: bool = Field(False, description="metadata/subset.npy as well, DataComp's list of uids")
