"""What the speed benchmarks measured, as files that tables and plots are made from."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]
DEFAULT_FOLDER = Path("runs/speed")


def write_records(path: Path, records: list[Record]) -> None:
    """Write records, one line of JSON each, behind one that describes the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in [machine(), *records]]
    path.write_text("\n".join(lines) + "\n")


def read_records(path: Path) -> list[Record]:
    """Read a file of records; none where it was not measured."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def machine() -> Record:
    """Describe machine and day."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.exists():
        fields = dict(
            (key.strip(), value.strip())
            for key, _, value in (line.partition(":") for line in cpuinfo.read_text().splitlines())
        )
        cpu, flags = fields.get("model name", cpu), set(fields.get("flags", "").split())
    return {
        "kind": "machine",
        "cpu": cpu,
        "avx512": "avx512f" in flags,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
