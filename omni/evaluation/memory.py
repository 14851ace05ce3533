"""Peak memory of answering one query, in a process of its own: python -m omni.evaluation.memory QUERY [MODEL]."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

from omni.errors import ModelError


def peak_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes).

    Linux's own count of this program: `ru_maxrss` also remembers the program that started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else None
    if found:
        return int(found[1]) * 1024 / 1e6
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def measure(query: Path, where: str | None) -> dict[str, float]:
    """Start a process that loads the model, answers the query and tells its peaks: after loading and at the end."""
    command = [sys.executable, "-m", "omni.evaluation.memory", str(query), *([where] if where else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise ModelError(f"the memory measurement failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> int:
    """Answer once and print the peaks as JSON."""
    from omni.assistant import Assistant
    from omni.audio.io import read_audio

    assistant = Assistant.load(arguments[1] if len(arguments) > 1 else None)
    loaded = peak_mb()
    assistant.reply(read_audio(arguments[0], assistant.config.audio))
    print(json.dumps({"loaded_mb": loaded, "peak_mb": peak_mb()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
