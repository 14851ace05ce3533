"""A conversation as a folder in a zip file: the sound of every turn, JSON for programs, a transcript for people."""

from __future__ import annotations

import io
import json
import re
import zipfile

from omni.audio.io import encode
from omni.demo.visits import Talk
from omni.demo.words import heard, perceived, why
from omni.errors import UsageError
from omni.turns import Turn


def folder_name(name: str) -> str:
    """A conversation's name as the name of a folder: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "conversation"


def zipped(talk: Talk) -> bytes:
    """The zip file's bytes. UsageError for a conversation in which nothing was said."""
    if not talk.conversation.turns:
        raise UsageError("nothing was said yet in this conversation; speak first, then export it")
    folder, packed = folder_name(talk.name), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (turn, query) in enumerate(zip(talk.conversation.turns, talk.queries, strict=True), 1):
            archive.writestr(f"{folder}/{number:02}-you.wav", encode(query))
            if turn.reply.audio is not None:
                archive.writestr(f"{folder}/{number:02}-omni.wav", encode(turn.reply.audio))
        rows = [_plain(number, turn) for number, turn in enumerate(talk.conversation.turns, 1)]
        whole = {"name": talk.name, "turns": rows}
        archive.writestr(f"{folder}/conversation.json", json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        archive.writestr(f"{folder}/transcript.txt", transcript(talk))
    return packed.getvalue()


def transcript(talk: Talk) -> str:
    """The conversation as text to read."""
    lines = [talk.name, "=" * len(talk.name), ""]
    for turn in talk.conversation.turns:
        lines += [
            f"You:       {turn.heard.text or '(not understood)'}",
            f"  heard    {heard(turn.heard)}",
            f"  tone     {perceived(turn.perception)}",
            f"  because  {why(turn.reply.plan, turn.reply.style)}",
            f"Omni:      {turn.reply.text}",
            "",
        ]
    return "\n".join(lines)


def _plain(number: int, turn: Turn) -> dict[str, object]:
    seen = turn.perception
    perception = {k: v for k, v in vars(seen).items() if k != "vector"}
    return {
        "you": {"text": turn.heard.text, "confidence": turn.heard.confidence, "audio": f"{number:02}-you.wav"},
        "perceived": perception,
        "plan": vars(turn.reply.plan),
        "style": vars(turn.reply.style),
        "omni": {"text": turn.reply.text, "audio": f"{number:02}-omni.wav"},
        "timings_ms": turn.timings_ms,
    }
