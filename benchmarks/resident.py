"""How much memory this process has had at most."""

from pathlib import Path


def peak_mb() -> int:
    """Megabytes resident at the worst moment since the program began, as Linux tells.

    Not `ru_maxrss` of getrusage(2): a process inherits that from whoever started it.
    """
    told = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in told if line.startswith("VmHWM")) / 1024)
