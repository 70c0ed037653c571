"""The DuckDB that selectors are played in: it is given little memory, so that a cut's does not grow with the rows.

What does not fit goes to files. Duplicates of a million URLs are found within 64 MiB, of ten million within 128 MiB, in two to
three times the time that they take without a limit.
"""

import duckdb

from pairsift.pipeline.control import machine
from pairsift.pipeline.ledger.view import literal
from pairsift.stages import sql

MEMORY_OF_A_THREAD = 32 << 20  # bytes
MOST_OF_THE_MACHINE = 0.3  # share of its memory, for a query that cannot do with less


def connect(spill: str, memory: int | None = None, share: float = 1) -> duckdb.DuckDBPyConnection:
    """A DuckDB that may take so many bytes of memory (None: 32 MiB for each thread), and beyond it uses the folder `spill`.

    `share`: how much of the machine is this one's, where several processes have one each: of its threads, and of the memory
    that a query gets which cannot do with less.
    """
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
    con.execute(f"SET threads = {max(1, round(share * machine.processors()))}")
    con.execute(f"SET VARIABLE most = {int(share * MOST_OF_THE_MACHINE * machine.memory())}")
    _limit(con, memory or MEMORY_OF_A_THREAD * machine.processors())
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
