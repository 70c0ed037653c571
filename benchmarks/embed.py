"""`embed` against transformers' own pipeline and against the bare model: CLIP ViT-B/32, real photos and captions, one CPU.

    python benchmarks/embed.py DATA                              # folder with captions.tsv (header, then file TAB caption)
    python benchmarks/embed.py DATA --pairs 64 --repeats 3 --threads 1   # on a busy machine: look at the CPU times

With its defaults it takes some four minutes on two idle cores. What counts are the ratios within a turn, `embed` to the ways
before it, of which it prints the median and the range.

The weights are random, made from the model's configuration: speed does not depend on them. The tokenizer is made from the
captions, and cuts them into about as many tokens as OpenAI's. Photos are stored at 256 pixels, as `download` stores them.
Four ways take turns, each over the same pairs:

- reference: transformers as its documentation shows it: float32, its processor, captions padded to 77 tokens;
- bare: transformers' model in the stage's dtype, with the very tensors of the stage's batches made before;
- bare (lean): the stage's model, with the same tensors;
- embed: the stage's transform, called as a run calls it, from encoded bytes to a table of vectors.

Where the rest goes is printed after it: decoding, resizing, tokenising, and what comes after the model.
"""

import argparse
import asyncio
import csv
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from pairsift.stages.base import Resources
from pairsift.stages.embed import Embed
from pairsift.stages.embed.dual import DualEncoder
from pairsift.stages.embed.feed import text_batches
from pairsift.stages.embed.pixels import decode
from pairsift.stages.pixels.images import prepare
from pairsift.stages.pixels.options import ImageOptions

STORED = ImageOptions(image_size=256, resize_mode="keep_ratio", resize_only_if_bigger=True)
BATCH, LENGTH = 64, 77
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # what CLIP's tokenizer takes for words

Vectors = tuple[np.ndarray, np.ndarray]


class Timed(NamedTuple):
    wall: list[float]  # seconds, of each turn
    cpu: list[float]  # seconds of all threads


def load_pairs(folder: Path, count: int) -> pa.Table:
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[:count]
    images = [prepare((folder / line["file"]).read_bytes(), STORED).data for line in lines]
    captions = [line["caption"] for line in lines]
    return pa.table({"image": pa.array(images, pa.large_binary()), "caption": captions})


def write_checkpoint(folder: Path, captions: Sequence[str]) -> None:
    size = write_tokenizer(folder, captions)
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=ids)).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def write_tokenizer(folder: Path, captions: Sequence[str]) -> int:
    """A byte-pair vocabulary in CLIP's layout. Returns its size."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=49_000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    base = letters + [letter + "</w>" for letter in letters]
    rest = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if token not in set(base)]
    tokens = [*base, *rest, "<|startoftext|>", "<|endoftext|>"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}))
    return len(tokens)


def load(folder: Path, dtype: torch.dtype) -> Any:
    model: Any = CLIPModel.from_pretrained(folder, dtype=dtype)
    return model.eval()


def reference(folder: Path) -> Callable[[pa.Table], Vectors]:
    """As transformers' documentation of CLIP shows it, in batches."""
    model = load(folder, torch.float32)
    make_processor: Any = CLIPProcessor
    processor = make_processor(CLIPImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))

    def run(table: pa.Table) -> Vectors:
        images, texts = [], []
        for start in range(0, len(table), BATCH):
            part = table.slice(start, BATCH).to_pydict()
            photos = [Image.open(io.BytesIO(data)).convert("RGB") for data in part["image"]]
            inputs = processor(
                text=part["caption"],
                images=photos,
                return_tensors="pt",
                padding="max_length",
                max_length=LENGTH,
                truncation=True,
            )
            with torch.inference_mode():
                outputs = model(**inputs)
            images.append(outputs.image_embeds.numpy())
            texts.append(outputs.text_embeds.numpy())
        return np.concatenate(images), np.concatenate(texts)

    return run


def bare(model: Any, encoder: DualEncoder, table: pa.Table) -> Callable[[pa.Table], None]:
    """The model alone, on the stage's own batches."""
    images, texts = batches(encoder, table)
    ids = [padded(batch) for batch in texts]

    def run(_: pa.Table) -> None:
        with torch.inference_mode():
            for values in images:
                model.get_image_features(pixel_values=values)
            for rows in ids:
                model.get_text_features(input_ids=rows)

    return run


def batches(encoder: DualEncoder, table: pa.Table) -> tuple[list[torch.Tensor], list[Any]]:
    decoded = [decode(scalar.as_buffer()) for scalar in table["image"]]
    ready = [encoder.prepare(image) for image in decoded if image is not None]
    images = [encoder.stack(ready[start : start + BATCH]) for start in range(0, len(ready), BATCH)]
    tokens = encoder.tokenize(list(dict.fromkeys(table["caption"].to_pylist())))
    return images, text_batches(dict.fromkeys(tokens), BATCH)


def padded(batch: Any) -> torch.Tensor:
    ids = torch.full((len(batch), max(map(len, batch))), batch[0][-1])
    for row, one in enumerate(batch):
        ids[row, : len(one)] = torch.tensor(one)
    return ids


def take_turns(ways: dict[str, Callable[[pa.Table], object]], table: pa.Table, repeats: int) -> dict[str, Timed]:
    """Each way once, then each again: what else the machine does falls on all alike. The first turn is not counted."""
    times = {name: Timed([], []) for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way(table)
            if turn:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def in_units(transform: Any, rows: int) -> Callable[[pa.Table], None]:
    """The stage as a run drives it: units of `rows` rows, several in flight."""

    async def drive(table: pa.Table) -> None:
        await asyncio.gather(*(transform(table.slice(start, rows)) for start in range(0, len(table), rows)))

    return lambda table: asyncio.run(drive(table))


def print_times(times: dict[str, Timed], pairs: int) -> None:
    print(f"{'':14}{'pairs/s':>9}{'low':>8}{'high':>8}{'CPU ms/pair':>13}{'of bare':>9}{'of reference':>14}")
    wall = {name: statistics.median(timed.wall) for name, timed in times.items()}
    for name, timed in times.items():
        rate, low, high = pairs / wall[name], pairs / max(timed.wall), pairs / min(timed.wall)
        cpu = statistics.median(timed.cpu) / pairs * 1e3
        shares = f"{wall['bare'] / wall[name]:9.3f}{wall['reference'] / wall[name]:14.2f}"
        print(f"{name:14}{rate:9.2f}{low:8.2f}{high:8.2f}{cpu:13.2f}{shares}")
    for other in ("reference", "bare", "bare (lean)"):
        ratios = sorted(theirs / ours for theirs, ours in zip(times[other].wall, times["embed"].wall, strict=True))
        median, low, high = statistics.median(ratios), ratios[0], ratios[-1]
        print(f"turn by turn, by the clock: embed is {median:.3f} x {other} ({low:.3f} to {high:.3f}, {len(ratios)} turns)")
    cpu_of = {name: statistics.median(timed.cpu) for name, timed in times.items()}
    print(
        f"by CPU time: embed is {cpu_of['bare'] / cpu_of['embed']:.3f} of bare, "
        f"{cpu_of['bare (lean)'] / cpu_of['embed']:.3f} of bare (lean), {cpu_of['reference'] / cpu_of['embed']:.2f} x reference"
    )


def print_rest(encoder: DualEncoder, table: pa.Table) -> None:
    """CPU time of what is not the model, one thread."""
    torch.set_num_threads(1)
    captions = table["caption"].to_pylist()

    def timed(what: str, function: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = function()
        seconds = time.process_time() - began
        print(f"  {what:34}{seconds / len(table) * 1e3:7.3f} ms   {len(table) / seconds:8.0f}/s")
        return result

    print("where the rest goes, per pair, on one core:")
    decoded = timed("decode", lambda: [decode(scalar.as_buffer()) for scalar in table["image"]])
    ready = timed("resize, crop", lambda: [encoder.prepare(image) for image in decoded])
    timed("both: stored bytes to pixels", lambda: [encoder.prepare(decode(s.as_buffer())) for s in table["image"]])  # type: ignore[arg-type]
    timed("scale, stack", lambda: [encoder.stack(ready[start : start + BATCH]) for start in range(0, len(ready), BATCH)])
    timed("tokenise", lambda: encoder.tokenize(captions))


def print_agreement(theirs: Vectors, ours: pa.Table, dtype: str) -> None:
    columns = [np.array(ours[name].to_pylist(), np.float32) for name in ("image_embedding", "text_embedding")]
    units = [column / np.linalg.norm(column, axis=1, keepdims=True) for column in columns]
    cosines = [(one * other).sum(axis=1).min() for one, other in zip(units, theirs, strict=True)]
    moved = np.abs((columns[0] * columns[1]).sum(axis=1) - (theirs[0] * theirs[1]).sum(axis=1)).max()
    print(
        f"{dtype}: {len(ours)} pairs; least cosine to the reference: images {cosines[0]:.6f}, texts {cosines[1]:.6f}; "
        f"similarity off by at most {moved:.6f}"
    )


def stage(folder: Path, dtype: str, threads: int) -> Any:
    parameters = {"model": str(folder), "dtype": dtype, "batch_size": BATCH, "resources": Resources(cpus=threads)}
    return Embed.model_validate(parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and agreement of `embed` beside transformers and the bare model.")
    parser.add_argument("data", type=Path, help="folder with photos and captions.tsv")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--unit", type=int, default=64, help="rows per unit")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--agreement", type=int, default=128, help="pairs for which results are compared; 0: none")
    options = parser.parse_args()

    quiet: Any = transformers.utils.logging
    quiet.disable_progress_bar()
    table = load_pairs(options.data, max(options.pairs, options.agreement))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_checkpoint(folder, table["caption"].to_pylist())
        torch.set_num_threads(options.threads)
        wanted = stage(folder, options.dtype, options.threads)
        name = wanted._number_format()  # noqa: SLF001
        encoder = DualEncoder(folder, "cpu", name)
        by_the_book = reference(folder)
        pairs = table.slice(0, options.pairs)
        with wanted.open() as transform:
            torch.set_num_threads(options.threads)
            plain = load(folder, getattr(torch, name))
            ways: dict[str, Callable[[pa.Table], object]] = {
                "reference": by_the_book,
                "bare": bare(plain, encoder, pairs),
                "bare (lean)": bare(encoder.model, encoder, pairs),
                "embed": in_units(transform, options.unit),
            }
            print(f"{len(pairs)} pairs, {options.threads} threads, {name}, load {os.getloadavg()[0]:.1f}")
            if options.repeats:
                print_times(take_turns(ways, pairs, options.repeats), len(pairs))
        print_rest(encoder, pairs)
        if options.agreement:
            torch.set_num_threads(options.threads)
            compared = table.slice(0, options.agreement)
            theirs = by_the_book(compared)
            for short in dict.fromkeys((name, "float32")):
                with stage(folder, short, options.threads).open() as transform:
                    print_agreement(theirs, asyncio.run(transform(compared)), short)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
