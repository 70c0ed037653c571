"""`pairsift check`, `why`, `clean` and `remove`."""

import json
import sys
from typing import Annotated

import typer

from pairsift.pipeline.report.progress import OnTerminal
from pairsift.pipeline.upkeep.check import Checked, check, fix
from pairsift.pipeline.upkeep.clean import Cleaning, clean
from pairsift.pipeline.upkeep.problems import Problem
from pairsift.pipeline.upkeep.remove import Removal, remove
from pairsift.pipeline.upkeep.takedowns import read_list
from pairsift.pipeline.upkeep.text import printable, short
from pairsift.pipeline.upkeep.why import MOST, Story, why

_LISTED = 20  # files that are named, of many
_FAILED = 1  # exit code: something is damaged, or not there

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would be done.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("check")(_check)
    app.command("why")(_why)
    app.command("clean")(_clean)
    app.command("remove")(_remove)


def _check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An output, a work folder, a folder of shards, a shard's .tar.")],
    with_fix: Annotated[bool, typer.Option("--fix", help="Remove what has to go, so that the next run makes it anew.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Read everything and say what is damaged, and what to do: tars, Parquet, counts, keys, layers, payloads.

    An output is checked with its work folder. Exit code 1 where there are problems.
    """

    def tell(problem: Problem) -> None:
        if not as_json:
            print(printable(f"{problem.where}: {problem.what}; {problem.remedy}"))

    checked = check(path, tell, OnTerminal())
    removed = fix(path, checked.problems) if with_fix and yes else []
    if as_json:
        print(json.dumps({**checked.as_dict(), "removed": removed}, indent=1))
    else:
        _say_checked(checked)
    if with_fix and not as_json:
        names = removed if yes else [name for problem in checked.problems for name in problem.remove]
        for name in dict.fromkeys(names):
            print(f"{'removed' if yes else 'would remove'} {printable(name)}")
        if names:
            print("run again" if yes else "with --yes they are removed")
    if checked.problems:
        sys.exit(_FAILED)


def _say_checked(checked: Checked) -> None:
    looked = ", ".join(f"{number:,} {kind}" for kind, number in checked.looked.items())
    problems = len(checked.problems)
    told = "all is well" if not problems else "1 problem" if problems == 1 else f"{problems:,} problems"
    print(f"looked at {looked or 'nothing'}: {told}")


def _why(
    row: Annotated[str, typer.Argument(metavar="URL|KEY|UID", help="Of the row, as fates.parquet has it.", show_default=False)],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="An output folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Say what became of a row and why: what came in, what each step said, the rule or failure that ended it, or its shard.

    Works while a run goes on, too. Exit code 1 where there is no such row.
    """
    stories = why(output, row)
    if as_json:
        print(json.dumps([story.as_dict() for story in stories], indent=1))
    for story in [] if as_json else stories:
        _tell(story)
    if len(stories) == MOST:
        print(f"pairsift: there may be more; these are the first {MOST}", file=sys.stderr)
    if not stories:
        print(f"pairsift: {printable(output)}: no row has the URL, key or uid {printable(row)}", file=sys.stderr)
        sys.exit(_FAILED)


def _tell(story: Story) -> None:
    """One row's story; nothing in it reaches the terminal but what can be printed."""
    print(f"row {printable(story.key)}   uid {printable(story.uid)}")
    sources = ", ".join(map(printable, story.sources[:3])) + (", …" if len(story.sources) > 3 else "")
    print(f"  came in with generation {story.generation}" + (f", of {sources}" if sources else ""))
    for name, value in story.came_in.items():
        if value is not None:
            print(f"    {printable(name)}: {short(value)}")
    for said in story.steps:
        print(f"  {printable(said.step)}: {said.outcome}" + (f", {printable(said.text)}" if said.text else ""))
        for name, value in said.values.items():
            print(f"    {printable(name)}: {short(value)}")
    print(f"  → {printable(story.verdict)}\n")


def _remove(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="An output folder.", show_default=False)],
    file: Annotated[
        str,
        typer.Option("--list", metavar="FILE", help="One URL, uid, key or sha256 a line; or a CSV whose header names them."),
    ],
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Leave the rows that were rejected as duplicates of these.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take samples down: out of the shards, their images out of the work folder, and never fetched or packed again.

    Shards that hold one are written again without it, the others stay as they are. What is listed stays on record in the work
    folder, for new input, too. Another output of the same work folder has to be asked for by itself.
    """
    removal = remove(output, read_list(file), yes=yes, keep_duplicates=keep_duplicates)
    if as_json:
        print(json.dumps(removal.as_dict(), indent=1))
    else:
        _say_removed(output, removal)


def _say_removed(output: str, removal: Removal) -> None:
    for key in removal.unknown:
        print(f"no row has the key {printable(key)}")
    also = f", {removal.duplicates:,} of them as duplicates of others" if removal.duplicates else ""
    print(f"{removal.listed:,} entries; {removal.rows:,} rows of this work folder are, or will be, removed{also}")
    verb = "overwritten with zeros" if removal.done else "would be overwritten with zeros"
    print(f"images in payloads: {removal.images:,} ({removal.bytes:,} bytes) {verb}")
    print(f"shards with such samples: {', '.join(removal.shards) or 'none'}")
    for path in removal.elsewhere[:_LISTED]:
        print(f"holds some of the images too, is not pairsift's, and stays as it is: {printable(path)}")
    if not removal.done:
        print("with --yes it is done")
    elif removal.complete:
        print(f"the shards are written again, without them: {printable(output)}")
    else:
        print("those shards are gone; run the config again to have them written without these samples")


def _clean(
    paths: Annotated[
        list[str], typer.Argument(metavar="OUTPUT|CONFIG...", help="All that still use the work folder.", show_default=False)
    ],
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Free the stored images of rows that none of them keeps, too.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Free what none of these outputs and configs needs: layers of other parameters, images without a layer, dead writes.

    A work folder may have other outputs than those you name: they would have to compute and download again what is freed. After
    --rejects, so would a config with a looser rule: its `run --retry-failed` downloads such images again.
    """
    cleanings = clean(paths, yes=yes, rejects=rejects)
    if as_json:
        print(json.dumps([cleaning.as_dict() for cleaning in cleanings], indent=1))
    for cleaning in [] if as_json else cleanings:
        _say_cleaned(cleaning)


def _say_cleaned(cleaning: Cleaning) -> None:
    print(f"{printable(cleaning.work)}, as {', '.join(map(printable, cleaning.needed_by))} need it:")
    for kind in cleaning.kinds:
        print(f"  {kind.bytes:>16,} bytes in {len(kind.files):>9,} files   {printable(kind.what)}")
    print(f"  {cleaning.bytes:>16,} bytes {'freed' if cleaning.done else 'would be freed'}")
    if cleaning.kinds and not cleaning.done:
        print("with --yes it is done; outputs that are not named here would have to compute it again")
