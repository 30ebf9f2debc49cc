"""What the kernel says of processes and their children."""

from pathlib import Path


def is_there(pid: int) -> bool:
    """Whether a process is there that is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
