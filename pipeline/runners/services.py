"""Ray's own processes, watched from outside."""

import os
from pathlib import Path


class Services:
    """Ray's raylet and GCS, where this process has started them. Ray ends a driver that has lost them, without a word: at once,
    or after a minute."""

    def __init__(self) -> None:
        """None are known where the system has no /proc."""
        children = [pid for thread in Path("/proc/self/task").glob("*/children") for pid in thread.read_text().split()]
        self._programs = {pid: name for pid in children if (name := _program(pid)) in ("raylet", "gcs_server")}

    def check(self) -> None:
        """Raises OSError where one has died."""
        for pid, name in self._programs.items():
            if _program(pid) != name:
                raise OSError(f"Ray's {name} (process {pid}) has died: was it killed, or memory short? What is done is kept")


def _program(pid: str) -> str | None:
    """The name of the program that a process runs; None once it has ended."""
    try:
        return os.path.basename(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")) or None
    except OSError:
        return None
