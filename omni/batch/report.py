"""report.html: every query with its reply, to listen and look through in a browser. One page, no scripts from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omni.batch.ledger import Ledger
from omni.files import atomic_write

#: More rows than this make a page that browsers are slow with; the manifest has them all.
MOST_ROWS = 10_000
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Replies</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src 'self' file:; style-src 'unsafe-inline';
 script-src 'unsafe-inline'">
<style>
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2126 }
form { position: sticky; top: 0; background: #fff; padding: .6rem 0; display: flex; gap: .6rem; flex-wrap: wrap }
input, select { font: inherit; padding: .3rem .5rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .5rem; border-top: 1px solid #d8dde2 }
audio { width: 15rem; height: 2.2rem; display: block }
small { color: #5c6770 }
.failed { background: #fff1ee }
</style></head><body>
"""
_SCRIPT = """<script>
const words = document.getElementById("words"), emotion = document.getElementById("emotion");
const status = document.getElementById("status"), shown = document.getElementById("shown");
const rows = [...document.querySelectorAll("tbody tr")].map(row => [row, row.textContent.toLowerCase()]);
function filter() {
  const wanted = words.value.toLowerCase();
  let count = 0;
  for (const [row, text] of rows) {
    const fits = text.includes(wanted) && (!emotion.value || row.dataset.emotion === emotion.value)
      && (!status.value || row.dataset.status === status.value);
    row.hidden = !fits;
    count += fits;
  }
  shown.value = count + " of " + rows.length;
}
for (const field of [words, emotion, status]) field.addEventListener("input", filter);
filter();
</script>
"""


def write_report(out: Path, ledger: Ledger) -> Path:
    """Write OUT/report.html from the manifest, replacing an older one. OutputError for a full disk."""
    path = out / "report.html"
    with atomic_write(path, force=True) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(_page(out, ledger))
    return path


def _page(out: Path, ledger: Ledger) -> Iterator[str]:
    emotions = sorted({row["emotion"] for row in ledger.rows() if "emotion" in row})
    total = ledger.queries
    yield _HEAD
    yield f"<h1>{total:,} queries, {ledger.failed:,} failed</h1>\n"
    if total > MOST_ROWS:
        yield f"<p>The first {MOST_ROWS:,} are shown; manifest.jsonl has all.</p>\n"
    yield '<form onsubmit="return false"><input id="words" type="search" placeholder="words" aria-label="words">'
    yield _select("emotion", "every emotion", emotions) + _select("status", "all", ["ok", "failed"])
    yield '<output id="shown"></output></form>\n<table><thead><tr><th>query</th><th>heard</th><th>reply</th></tr></thead>'
    yield "<tbody>\n"
    for row in islice(ledger.rows(), MOST_ROWS):
        yield _row(row, out)
    yield "</tbody></table>\n" + _SCRIPT + "</body></html>\n"


def _select(name: str, every: str, values: list[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    return f'<select id="{name}" aria-label="{name}"><option value="">{every}</option>{options}</select>'


def _row(row: dict[str, Any], out: Path) -> str:
    failed = row["status"] != "ok"
    attributes = f'data-status="{escape(row["status"])}" data-emotion="{escape(row.get("emotion", ""))}"'
    query = escape(row["id"]) + ("" if row["source"].endswith(".tar") else _audio(os.path.relpath(row["source"], out)))
    if failed:
        return f'<tr class="failed" {attributes}><td>{query}</td><td colspan="2">{escape(row["error"])}</td></tr>\n'
    sure = row["probabilities"].get(row["emotion"], 0.0)
    heard = f"{escape(row['transcript']) or '(nothing)'}<br><small>{escape(row['emotion'])}, {sure:.0%} sure</small>"
    plan = ", ".join(escape(str(value)) for value in row["plan"].values())
    reply = f"{escape(row['reply'])}<br><small>{plan}; spoken {escape(row['style']['name'])}</small>"
    sound = _audio(row["file"]) if row["file"] else ""
    return f"<tr {attributes}><td>{query}</td><td>{heard}</td><td>{reply}{sound}</td></tr>\n"


def _audio(path: str) -> str:
    address = quote(path.encode("utf-8", "surrogateescape"))
    return f'<audio controls preload="none" src="{escape("./" + address)}"></audio>'
