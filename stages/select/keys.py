"""What selectors share: sets of columns that agree, and numbers that look random and never change."""

from collections.abc import Iterable, Sequence

_HEX_DIGITS = 13
DRAWN_BITS = 4 * _HEX_DIGITS  # 52: as many as a double holds without rounding


def same(left: str, right: str, names: Iterable[str]) -> str:
    """SQL: two tables agree in these columns. Names are quoted already; null agrees with nothing."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in names)


def known(names: Iterable[str]) -> str:
    """SQL: none of these columns is null."""
    return " AND ".join(f"{name} IS NOT NULL" for name in names)


def uniform(seed: int, expressions: Sequence[str]) -> str:
    """SQL: a number in [0, 1) that is decided by the seed and the values alone.

    The first 52 bits of an md5: the same in every version of every database, whatever the order of the rows.
    """
    return f"(CAST({drawn(seed, expressions)} AS DOUBLE) / {16**_HEX_DIGITS})"


def drawn(seed: int, expressions: Sequence[str]) -> str:
    """SQL: the number that `uniform` makes a fraction of, a BIGINT of DRAWN_BITS bits."""
    text = ", ".join(f"CAST({expression} AS VARCHAR)" for expression in expressions)
    digits = f"left(md5(concat_ws('/', '{seed:d}', {text})), {_HEX_DIGITS})"
    return f"CAST(concat('0x', {digits}) AS BIGINT)"
