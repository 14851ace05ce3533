"""CREMA-D (Cao et al. 2014, IEEE TAC 5(4)): 91 actors, twelve sentences, six emotions, Open Database License.

The public layout: `AudioWAV/1001_DFA_ANG_XX.wav`, whose fields are actor, sentence, emotion, intensity.
"""

from __future__ import annotations

from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError

SENTENCES = {
    "IEO": "IT'S ELEVEN O'CLOCK", "TIE": "THAT IS EXACTLY WHAT HAPPENED", "IOM": "I'M ON MY WAY TO THE MEETING",
    "IWW": "I WONDER WHAT THIS IS ABOUT", "TAI": "THE AIRPLANE IS ALMOST FULL", "MTI": "MAYBE TOMORROW IT WILL BE COLD",
    "IWL": "I WOULD LIKE A NEW ALARM CLOCK", "ITH": "I THINK I HAVE A DOCTOR'S APPOINTMENT",
    "DFA": "DON'T FORGET A JACKET", "ITS": "I THINK I'VE SEEN THIS BEFORE", "TSI": "THE SURFACE IS SLICK",
    "WSI": "WE'LL STOP IN A COUPLE OF MINUTES",
}  # fmt: skip
EMOTIONS = {
    "ANG": "angry", "DIS": "disgusted", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad",
}  # fmt: skip
INTENSITIES = {"LO": "mild", "MD": "moderate", "HI": "strong", "XX": None}


def read(folder: Path) -> list[Clip]:
    """All clips of the set, speakers named `cremad-1001`... DataError if none is there."""
    clips = [c for p in sorted((folder / "AudioWAV").glob("*.wav")) if (c := _clip(p)) is not None]
    if not clips:
        raise DataError(f"no CREMA-D clips in {folder}: expected AudioWAV/1001_DFA_ANG_XX.wav; check --data")
    return clips


def _clip(path: Path) -> Clip | None:
    fields = path.stem.split("_")
    if len(fields) != 4 or fields[1] not in SENTENCES or fields[2] not in EMOTIONS:
        return None
    actor, sentence, emotion, intensity = fields
    return Clip(path.stem, path, f"cremad-{actor}", SENTENCES[sentence], EMOTIONS[emotion], INTENSITIES.get(intensity))
