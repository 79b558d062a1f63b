"""How much memory a packed embedding takes, measured in a process of its own: it opens the folder and looks rows up,
by NumPy alone.

python -m dnis_lightning.packed.resident ship/    # prints bytes
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from dnis_lightning.errors import RunError
from dnis_lightning.packed.embedding import PackedEmbedding

_STATUS = Path("/proc/self/status")
_ROWS = 1 << 17


def resident_bytes(folder: Path) -> int | None:
    """What a fresh process takes more once it has a folder open and 131,072 rows looked up; None where none tells."""
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def main() -> int:
    """Print the bytes; 1, after a sentence, where that cannot be done."""
    if len(sys.argv) != 2 or not _STATUS.exists():
        print("expected one folder, on a system with /proc", file=sys.stderr)
        return 1
    sys.modules["numba"] = None  # type: ignore[assignment]  # a hundred MiB of its own, whatever the table
    before = _resident()
    try:
        embedding = PackedEmbedding.open(sys.argv[1], check=False)
    except RunError as fault:
        print(fault, file=sys.stderr)
        return 1
    wanted = np.random.default_rng(0).integers(max(embedding.table.features, 1), size=_ROWS)
    for some in np.array_split(wanted, 32):
        embedding.rows(some)
    print(_resident() - before)
    return 0


def _resident() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    sys.exit(main())
