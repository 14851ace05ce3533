"""The reply voice on every held-out reply: words read back by PocketSphinx, NISQA's score, pitch range; beside peers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omni.assemble import voicing_part
from omni.assistant import Assistant
from omni.checkpoint import open_checkpoint
from omni.errors import ModelError
from omni.evaluation.metrics import difference_interval, error_counts, ratio, ratio_interval
from omni.evaluation.peers import READERS, read_all, sphinx_all
from omni.evaluation.replying import replies
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.evaluation.sound import measure, nisqa, nisqa_file
from omni.turns import STYLES, Style

log = logging.getLogger(__name__)
WORDS_FLOOR, MOS_FLOOR = 0.15, 3.0
#: Each voice is scored by NISQA and measured for pitch on at most this many of the replies, the same for all.
SCORED = 120


def run(assistant: Assistant, settings: Settings) -> Result:
    """Every different held-out reply in its plan's style; peers read the same texts."""
    said: dict[tuple[str, Style], np.ndarray] = {}
    for met in replies(assistant, settings):
        said.setdefault((met.reply.text, met.reply.style), met.sound)
    lines = list(said)
    texts, styles = [text for text, _ in lines], [style for _, style in lines]
    clips = {"omni": [sound.astype(np.float32) / 32767 for sound in said.values()]}
    clips["flite slt"] = read_all(texts, [READERS["flite slt"]] * len(texts), settings.workers)
    result = Result(counts={"replies": len(lines)})
    result.numbers["seconds"] = sum(len(c) for c in clips["omni"]) / 16_000
    _words(result, texts, styles, clips, settings.workers)
    every = max(1, -(-len(lines) // SCORED))
    few = slice(None, None, every)
    for name, voice in READERS.items():
        if name not in clips:
            clips[name] = read_all(texts[few], [voice] * len(texts[few]), settings.workers)
    scored = {n: c if len(c) < len(texts) or every == 1 else c[few] for n, c in clips.items()}
    other = _other_vocoder(assistant, settings)
    if other is not None:
        kind, second = other
        scored[f"omni, {kind} vocoder"] = [second.say(t, s).samples for t, s in lines[few]]
    _quality(result, scored, styles[few], settings)
    return result


def _words(
    result: Result, texts: list[str], styles: list[Style], clips: dict[str, list[np.ndarray]], workers: int
) -> None:
    """What PocketSphinx makes of our voice, and of flite reading the same text."""
    counts = {
        name: error_counts(texts, sphinx_all(clips[name], workers, f"reading back {name}"))
        for name in ("omni", "flite slt")
    }
    rate, other = ratio(counts["omni"]), ratio(counts["flite slt"])
    gap = difference_interval(counts["omni"], counts["flite slt"])
    result.rows.append(
        Row(
            "held-out replies read back by PocketSphinx: word error rate",
            f"{percent(rate)} (95 %: {between(ratio_interval(counts['omni']))})",
            f"flite slt, same text, {percent(other)} ({between(ratio_interval(counts['flite slt']))}); "
            f"difference {between(gap)}",
            f"within 15 points: {percent(other + WORDS_FLOOR)}",
            f"no worse: {percent(other)}",
            rate <= other + WORDS_FLOOR,
            rate <= other,
        )
    )
    names = np.array([s.name for s in styles])
    rows = [
        (n, str(int((names == n).sum())), *(percent(ratio(counts[v][names == n])) for v in ("omni", "flite slt")))
        for n in STYLES
        if (names == n).any()
    ]
    result.tables.append(Table("Words read back, by the plan's style", ("style", "replies", "omni", "flite slt"), rows))
    result.numbers |= {"wer_read_back": rate, "wer_read_back_flite": other, "difference_interval": gap}


def _other_vocoder(assistant: Assistant, settings: Settings) -> tuple[str, Assistant] | None:
    """The same assistant with the vocoder that is not the default one, where its weights exist."""
    kind = "neural" if assistant.config.vocoder.kind == "world" else "world"
    try:
        voice = voicing_part(open_checkpoint(settings.where), kind)
    except ModelError as error:
        log.info("only one vocoder is measured: %s", error)
        return None
    return kind, Assistant(replace(assistant.parts, voice=voice))


def _quality(result: Result, clips: dict[str, list[np.ndarray]], styles: Sequence[Style], settings: Settings) -> None:
    """NISQA MOS and pitch range of each voice on the same replies."""
    ranges = {n: [measure(c).range_semitones for c in found] for n, found in clips.items()}
    try:
        nisqa_file(settings.nisqa)
    except ModelError as error:
        result.rows.append(
            Row("NISQA MOS of the replies", f"not measured: {error}", "", "3.0", "above flite slt", False, False)
        )
        result.numbers["pitch_range_semitones"] = {n: float(np.median(r)) for n, r in ranges.items()}
        return
    scores = {n: nisqa(found, settings.nisqa, f"NISQA {n}") for n, found in clips.items()}
    means = {n: float(s.mean()) for n, s in scores.items()}
    ours, flite = means["omni"], means["flite slt"]
    result.rows.append(
        Row(
            "NISQA MOS of those replies (pitch range, 5th to 95th percentile, median)",
            f"{ours:.2f} ({np.median(ranges['omni']):.1f} semitones)",
            "; ".join(f"{n} {means[n]:.2f} ({np.median(ranges[n]):.1f})" for n in means if n != "omni"),
            f"{MOS_FLOOR:.1f}",
            f"above flite slt: {flite:.2f}",
            ours >= MOS_FLOOR,
            ours > flite,
        )
    )
    rows = [
        (n, str(len(s)), f"{s.mean():.2f}", f"{s.std():.2f}", f"{np.median(ranges[n]):.1f}") for n, s in scores.items()
    ]
    names = np.array([s.name for s in styles])
    for name in [n for n in STYLES if (names == n).any()]:
        mine = scores["omni"][names == name]
        span = np.median(np.array(ranges["omni"])[names == name])
        rows.append((f"omni, {name}", str(len(mine)), f"{mine.mean():.2f}", f"{mine.std():.2f}", f"{span:.1f}"))
    note = "A flat voice scores high with NISQA, so its score means little without the pitch range. All clips at one level."
    columns = ("voice", "clips", "NISQA MOS", "deviation", "pitch range, semitones")
    result.tables.append(Table("Guessed quality and pitch range of the same replies", columns, rows, note))
    result.numbers |= {"nisqa": means, "pitch_range_semitones": {n: float(np.median(r)) for n, r in ranges.items()}}
