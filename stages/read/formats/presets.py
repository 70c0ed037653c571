"""What the columns of well-known lists are called, so that nobody has to look them up."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Name = Literal["cc3m", "cc12m", "coco", "coyo", "datacomp", "flickr30k", "laion", "redcaps", "sbu", "wit"]


class Preset(NamedTuple):
    """Our names and theirs; of several of theirs, the first that a file has. `file` is for lists beside a folder of images."""

    columns: dict[str, tuple[str, ...]]
    header: tuple[str, ...] | None = None  # of files that come without one

    def mapping(self, found: Sequence[str], needs: str) -> dict[str, str]:
        """Our name: theirs, for a file with these columns. What it `needs`, url or file, is there in any case."""
        asked = {ours: theirs for ours, theirs in self.columns.items() if ours != "file" or needs == "file"}
        chosen = {ours: next((name for name in theirs if name in found), None) for ours, theirs in asked.items()}
        needed = {needs: self.columns.get(needs, (needs,))[0]}
        return needed | {ours: name for ours, name in chosen.items() if name}


PRESETS: dict[Name, Preset] = {
    # https://ai.google.com/research/ConceptualCaptions/download
    "cc3m": Preset({"url": ("url",), "caption": ("caption",)}, ("caption", "url")),
    # https://github.com/google-research-datasets/conceptual-12m
    "cc12m": Preset({"url": ("url",), "caption": ("caption",)}, ("url", "caption")),
    # https://cocodataset.org/#format-data: captions_train2017.json; an image's captions are joined to it
    "coco": Preset({"url": ("coco_url", "flickr_url"), "caption": ("caption",), "file": ("file_name",)}),
    # https://huggingface.co/datasets/kakaobrain/coyo-700m
    "coyo": Preset({"url": ("url",), "caption": ("text",)}),
    # https://huggingface.co/datasets/mlfoundations/datacomp_xlarge: metadata of a pool
    "datacomp": Preset({"url": ("url",), "caption": ("text",), "uid": ("uid",)}),
    # https://shannon.cs.illinois.edu/DenotationGraph/: results_20130124.token; Karpathy's dataset_flickr30k.json
    "flickr30k": Preset({"caption": ("caption",), "file": ("filename", "file")}, ("file", "caption")),
    # LAION-400M, LAION-5B and what was joined to them since; the names differ from release to release
    "laion": Preset(
        {
            "url": ("URL", "url"),
            "caption": ("TEXT", "text", "caption", "top_caption"),
            "similarity": ("similarity",),
            "language": ("LANGUAGE", "language"),
            "punsafe": ("punsafe", "prob_unsafe"),
            "pwatermark": ("pwatermark", "prob_watermark"),
            "aesthetic": ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score", "prediction"),
            "nsfw": ("NSFW",),
        }
    ),
    # https://redcaps.xyz: one JSON per subreddit and year, with a list of annotations
    "redcaps": Preset({"url": ("url",), "caption": ("caption", "raw_caption")}),
    # https://www.cs.rice.edu/~vo9/sbucaptions/: sbu-captions-all.json, a list for each column
    "sbu": Preset({"url": ("image_urls",), "caption": ("captions",)}),
    # https://github.com/google-research-datasets/wit
    "wit": Preset(
        {
            "url": ("image_url",),
            "caption": ("caption_reference_description", "caption_alt_text_description", "caption_attribution_description"),
        }
    ),
}
