"""Results on disk: one JSON file a suite, and docs/results.md drawn from whichever of them there are."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omni.checkpoint import open_checkpoint
from omni.errors import DataError
from omni.evaluation.settings import Result
from omni.files import write_json, write_text

#: Order and headings of the page.
HEADINGS: dict[str, str] = {
    "hearing": "Hearing",
    "perceiving": "Perceiving",
    "replying": "Replying",
    "voicing": "Voicing",
    "styling": "Styling",
    "bench": "Speed and memory",
    "prompting": "Ways of asking",
}
#: Suites of presets alone: the page of omni-mini does not lack them.
_OF_PRESETS = ("prompting",)
#: How names of results of presets with random weights begin.
OF_PRESET = "bench-"
#: The result of `omni bench --batch`, whose name begins so too.
OF_BATCH = "bench-batch"
_HEARS = (("listener", "words"), ("audio", "listener"))
_THINKS = (
    (
        *_HEARS[0], "perceiver", "sentiment", "language_model", "tokenizer", "names", "spoken_before", "exemplars",
        "emotion_adapter",
    ),
    (*_HEARS[1], "perceiver", "llm"),
)  # fmt: skip
#: Suite -> (stems of the files, blocks of the configuration) that its figures depend on; any other suite: all.
USED = {
    "hearing": _HEARS,
    "perceiving": _THINKS,
    "replying": _THINKS,
    "styling": (("voice", "vocoder"), ("audio", "decoder", "vocoder")),
    "prompting": (("sentiment",), ("audio",)),
}
_COMMANDS = {name: f"omni eval {name}" for name in HEADINGS} | {"bench": "omni bench"}


def headings(out: Path) -> dict[str, str]:
    """HEADINGS, and one more for each preset whose speed was measured into OUT/results."""
    presets = sorted(path.stem for path in (out / "results").glob(f"{OF_PRESET}*.json"))
    titles = {name: f"Speed of {name.removeprefix(OF_PRESET)} on random weights" for name in presets}
    return HEADINGS | titles | ({OF_BATCH: "Speed of batches"} if OF_BATCH in titles else {})


def commit() -> str:
    """The code's short commit, with '+' when files differ from it; 'unknown' outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml", "*.safetensors")
    return (found + ("+" if changed else "")) if found else "unknown"


def weights_digest(where: str | None, name: str = "bench") -> str:
    """First digits of the hash of what a suite exercises: hashes of the files, blocks of the configuration.

    So a new voice leaves the figures of hearing valid, and a new listener does not.
    """
    checkpoint = open_checkpoint(where)
    stems, blocks = USED.get(name, ((), ()))
    files = {
        file: entry["sha256"]
        for file, entry in sorted(checkpoint.index["files"].items())
        if file != "config.yaml" and (not stems or Path(file).stem in stems)
    }
    settings = {k: v for k, v in asdict(checkpoint.config).items() if k != "name" and (not blocks or k in blocks)}
    return hashlib.sha256(json.dumps([files, settings], sort_keys=True).encode()).hexdigest()[:12]


def save(out: Path, name: str, result: Result, options: dict[str, Any], where: str | None = None) -> Path:
    """Write OUT/results/NAME.json: the result with commit, weights, date, processor cores and options."""
    path = out / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "suite": name,
        "commit": commit(),
        "weights": "of a preset" if options.get("preset") else weights_digest(where, name),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "options": options,
        **result.plain(),
    }
    write_json(path, measured, force=True)
    return path


def render(out: Path) -> Path:
    """Draw OUT/results.md from OUT/results/*.json. DataError names a file that is not a result."""
    found: dict[str, dict[str, Any]] = {}
    titles = headings(out)
    for name in titles:
        path = out / "results" / f"{name}.json"
        if path.is_file():
            try:
                found[name] = json.loads(path.read_text(encoding="utf-8"))
                found[name]["rows"], found[name]["tables"]
            except (json.JSONDecodeError, KeyError) as error:
                raise DataError(f"{path} is not a result ({error}); delete it and measure again") from error
    page = ["# Results", "", *_summary(found)]
    for name, result in found.items():
        page += ["", f"## {titles[name]}", "", _origin(name, result), *_notes(result)]
        for table in result["tables"]:
            page += ["", f"### {table['title']}", "", *_table(table["columns"], table["rows"])]
            if table["note"]:
                page += ["", table["note"]]
    write_text(out / "results.md", "\n".join(page) + "\n", force=True)
    return out / "results.md"


def _summary(found: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for result in found.values():
        for row in result["rows"]:
            floor = _judged(row["floor"], row["floor_met"])
            rows.append((row["what"], row["value"], row["beside"], floor, _judged(row["aim"], row["aim_met"])))
    judged = [r for result in found.values() for r in result["rows"]]
    floors = [r["floor_met"] for r in judged if r["floor_met"] is not None]
    aims = [r["aim_met"] for r in judged if r["aim_met"] is not None]
    lines = [
        "Written by `omni eval` and `omni bench`; nothing here is typed by hand. Held out from everything that is shipped:",
        "LibriSpeech speakers 26 and 27, RAVDESS actors 15 to 18, Indian EmoSpeech users from 60 on, a tenth of the",
        "project's own exchanges (by situation) and the festival voices that speak them.",
        "",
        f"**{sum(floors)} of {len(floors)} floors and {sum(aims)} of {len(aims)} aims are met.**",
    ]
    missing = [HEADINGS[name] for name in HEADINGS if name not in found and name not in _OF_PRESETS]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    if any(result["options"].get("limit") for result in found.values()):
        lines += ["", "Some figures come from a sample (`--limit`, see each section): they are no final results."]
    return [*lines, "", *_table(["what", "omni", "beside", "floor", "aim"], rows)]


def _judged(text: str, met: bool | None) -> str:
    if met is None:
        return text
    return f"{text}: {'passed' if met else '**missed**'}"


def _origin(name: str, result: dict[str, Any]) -> str:
    options = result["options"]
    counts = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in result["counts"].items())
    limited = f", **only a sample (--limit {options['limit']})**" if options.get("limit") else ""
    command = options.get("command") or _COMMANDS[name]
    seed = f", seed {options['seed']}" if "seed" in options else ""
    return (
        f"`{command}`, {result['date']}, commit {result['commit']}, weights {options.get('model', '')} "
        f"{result['weights']}, {result['cores']} processor cores{seed}{limited}. Counts: {counts}."
    )


def _notes(result: dict[str, Any]) -> list[str]:
    return [line for note in result["notes"] for line in ("", note)]


def _table(columns: list[str], rows: Any) -> list[str]:
    def line(cells: Any) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return [line(columns), "|" + "---|" * len(columns), *(line(row) for row in rows)]
