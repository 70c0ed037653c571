"""The DuckDB that selectors are played in: it is given little memory, and what does not fit goes to files.

Up to a million rows it gets the same, whatever their number, since files of so little cost nothing. Of ten million, files make
the best 30 % and the duplicates among their URLs a third dearer than they are in memory, so each row beyond the first million
adds some bytes, up to a bound.
"""

import duckdb

from pairsift.pipeline.control import machine
from pairsift.pipeline.ledger.view import literal
from pairsift.stages import sql

MEMORY_OF_A_THREAD = 12 << 20  # bytes; with 8, a million URLs are looked at twice: see `execute`
ROWS_WITHOUT_MORE = 1_000_000
MEMORY_OF_A_ROW = 48  # bytes, of each row beyond those
MOST_MEMORY = 1 << 30  # bytes, for a query that can do with less
MOST_OF_THE_MACHINE = 0.3  # share of its memory, for a query that cannot do with less


def memory_for(rows: int) -> int:
    """Bytes for the selectors of a cut of so many rows: 24 MiB on two CPUs, 457 MB where they are ten million."""
    most = min(MOST_MEMORY, int(MOST_OF_THE_MACHINE * machine.memory()))
    least = MEMORY_OF_A_THREAD * machine.processors()
    return max(least, min(least + MEMORY_OF_A_ROW * max(0, rows - ROWS_WITHOUT_MORE), most))


def connect(spill: str, memory: int, share: float = 1) -> duckdb.DuckDBPyConnection:
    """A DuckDB that may take so many bytes of memory, and beyond them uses the folder `spill`.

    `share`: how much of the machine is this one's, where several processes have one each: of its threads, and of the memory
    that a query gets which cannot do with less.
    """
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
    con.execute(f"SET threads = {max(1, round(share * machine.processors()))}")
    con.execute(f"SET VARIABLE most = {int(share * MOST_OF_THE_MACHINE * machine.memory())}")
    _limit(con, memory)
    con.execute(sql.KEEP_TRY_WHOLE)
    con.execute(f"SET temp_directory = {literal(spill)}")
    return con


def execute(con: duckdb.DuckDBPyConnection, query: str) -> None:
    """Run a statement. While it cannot do with the memory it was given, it gets twice as much, up to 30 % of the machine's."""
    while True:
        try:
            con.execute(query)
        except duckdb.OutOfMemoryException:
            given, most = con.execute("SELECT getvariable('memory'), getvariable('most')").fetchall()[0]
            if given >= most:
                raise
            _limit(con, min(2 * given, most))
        else:
            return


def _limit(con: duckdb.DuckDBPyConnection, memory: int) -> None:
    con.execute(f"SET memory_limit = '{memory}B'; SET VARIABLE memory = {memory}")
