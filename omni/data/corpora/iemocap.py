"""IEMOCAP (Busso et al. 2008, LRE 42): five sessions of two actors in dialogue, for research, on request from USC.

The public layout: `Session1/dialog/EmoEvaluation/Ses01F_impro01.txt` with lines of time, turn, label and three ratings between
tabs, `dialog/transcriptions/Ses01F_impro01.txt` with `Ses01F_impro01_F000 [6.29-8.23]: Excuse me.`, and
`sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav`.
"""

from __future__ import annotations

import re
from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError

#: Turns on which the raters did not agree (xxx) or which are of no class here (fru, oth) are left out.
EMOTIONS = {
    "neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry", "fea": "fearful", "dis": "disgusted",
    "sur": "surprised",
}  # fmt: skip
_RATED = re.compile(r"^\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w+)\t\[([\d.]+), ([\d.]+), ([\d.]+)\]")
_SAID = re.compile(r"^(\S+) \[[^\]]*\]:\s*(.*)$")


def read(folder: Path) -> list[Clip]:
    """All turns with an emotion, speakers named `iemocap-01F`...; `extra` has valence, activation, dominance (1 to 5)."""
    clips = []
    for ratings in sorted(folder.glob("Session*/dialog/EmoEvaluation/*.txt")):
        session, dialogue = ratings.parents[2], ratings.stem
        texts = _texts(session / "dialog" / "transcriptions" / ratings.name)
        for line in ratings.read_text(encoding="utf-8", errors="replace").splitlines():
            found = _RATED.match(line)
            if not found or found[4] not in EMOTIONS:
                continue
            begin, end, name, label = float(found[1]), float(found[2]), found[3], found[4]
            audio = session / "sentences" / "wav" / dialogue / f"{name}.wav"
            if not audio.is_file():
                continue
            extra = dict(zip(("valence", "activation", "dominance"), map(float, found.groups()[4:]), strict=True))
            speaker = f"iemocap-{name[3:5]}{name.split('_')[-1][0]}"
            clips.append(
                Clip(name, audio, speaker, texts.get(name), EMOTIONS[label], None, round(end - begin, 3), extra)
            )
    if not clips:
        raise DataError(f"no IEMOCAP turns in {folder}: expected Session1/dialog/EmoEvaluation/*.txt; check --data")
    return clips


def _texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {found[1]: found[2].strip() for line in lines if (found := _SAID.match(line))}
