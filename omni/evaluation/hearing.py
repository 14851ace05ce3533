"""Words heard: error rate on two speakers that nothing was trained on, beside PocketSphinx on the same clips."""

from __future__ import annotations

import numpy as np

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.data.manifest import read
from omni.evaluation.crew import each
from omni.evaluation.metrics import difference_interval, error_counts, ratio, ratio_interval
from omni.evaluation.peers import sphinx_all
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.turns import Audio, Heard

FLOOR = 0.42


def run(assistant: Assistant, settings: Settings) -> Result:
    """Word error rate on LibriSpeech dev with its 95 % interval; PocketSphinx hears the same clips in this run."""
    clips = [c for c in read(settings.folder("librispeech") / "dev.jsonl") if c.text]
    clips = settings.sample(clips)
    sounds = [read_audio(clip.audio, assistant.config.audio) for clip in clips]
    heard = each(assistant, _hear, sounds, settings, "hearing")
    theirs = sphinx_all([sound.samples for sound in sounds], settings.workers)
    said = [clip.text or "" for clip in clips]
    result = compare(said, [h.text for h in heard], theirs)
    unsure = [not h.understood for h in heard]
    speakers = np.array([clip.speaker for clip in clips])
    result.tables.append(_by_speaker(speakers, error_counts(said, [h.text for h in heard]), error_counts(said, theirs)))
    result.notes.append(f"{percent(float(np.mean(unsure)))} of the clips were flagged as not understood.")
    result.tables.append(_examples(said, [h.text for h in heard], theirs))
    result.numbers |= {"flagged_not_understood": float(np.mean(unsure))}
    result.counts = {"clips": len(clips), "seconds": round(sum(s.duration_s for s in sounds))}
    return result


def _hear(assistant: Assistant, sound: Audio) -> Heard:
    return assistant.hear(sound)[0]


def compare(said: list[str], ours: list[str], theirs: list[str]) -> Result:
    """The row of the results from transcripts: ours and PocketSphinx's against what was said."""
    counts, peer = error_counts(said, ours), error_counts(said, theirs)
    rate, interval = ratio(counts), ratio_interval(counts)
    other, other_interval, gap = ratio(peer), ratio_interval(peer), difference_interval(counts, peer)
    row = Row(
        "word error rate, LibriSpeech dev speakers 26 and 27",
        f"{percent(rate)} (95 %: {between(interval)})",
        f"PocketSphinx {percent(other)} ({between(other_interval)}); difference {between(gap)}",
        "42 %",
        "below PocketSphinx",
        rate <= FLOOR,
        rate < other,
    )
    numbers = {"wer": rate, "wer_interval": interval, "wer_pocketsphinx": other, "difference_interval": gap}
    return Result([row], numbers=numbers)


def _by_speaker(speakers: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Table:
    rows = [
        (
            str(s),
            str(int((speakers == s).sum())),
            percent(ratio(ours[speakers == s])),
            percent(ratio(theirs[speakers == s])),
        )
        for s in sorted(set(speakers.tolist()))
    ]
    return Table("Word errors by speaker", ("speaker", "clips", "omni", "PocketSphinx"), rows)


def _examples(said: list[str], ours: list[str], theirs: list[str], count: int = 4) -> Table:
    rows = [(said[i].lower(), ours[i], theirs[i]) for i in np.linspace(0, len(said) - 1, count).astype(int)]
    return Table("Some clips, evenly spaced", ("said", "omni heard", "PocketSphinx heard"), rows)
