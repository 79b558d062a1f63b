"""How much memory a packed embedding, or its table alone, takes: measured in a process of its own, which opens it and
looks rows up, by NumPy alone.

python -m dnis_lightning.packed.resident ship/                      # prints bytes
python -m dnis_lightning.packed.resident ship/table.safetensors
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from dnis_lightning.errors import RunError
from dnis_lightning.packed.embedding import PackedEmbedding
from dnis_lightning.packed.table import PackedTable
from dnis_lightning.packed.tensors import DAMAGE

_STATUS = Path("/proc/self/status")
_ROWS = 1 << 17


def resident_bytes(path: Path) -> int | None:
    """What a fresh process takes more once it has a folder, or a table, open and 131,072 rows looked up.

    None where there is no /proc, or the process fails.
    """
    command = [sys.executable, "-m", __name__, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def main() -> int:
    """Print the bytes; 1, after a sentence, where that cannot be done."""
    if len(sys.argv) != 2 or not _STATUS.exists():
        print("expected one folder or file, on a system with /proc", file=sys.stderr)
        return 1
    path, before = Path(sys.argv[1]), _resident()
    try:
        opened = PackedTable.load(path) if path.is_file() else PackedEmbedding.open(path, check=False)
    except (RunError, *DAMAGE) as fault:
        print(f"{path}: cannot be read ({fault}); name what export wrote", file=sys.stderr)
        return 1
    table = opened if isinstance(opened, PackedTable) else opened.table
    wanted = np.random.default_rng(0).integers(max(table.features, 1), size=_ROWS)
    for some in np.array_split(wanted, 32):
        table.rows(some, compiled=False)  # Numba takes a hundred MiB of its own, whatever the table
    print(_resident() - before)
    return 0


def _resident() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    sys.exit(main())
