"""Log-mels computed once: one flat half-precision file per (manifest, variant) that training maps into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from omni.audio.features import log_mel
from omni.audio.io import load_clip
from omni.config import AudioConfig
from omni.data.manifest import Clip

#: Changes a clip before its features are taken: (samples [N], index of the clip) -> samples [N'].
Variant = Callable[[np.ndarray, int], np.ndarray]


class FeatureCache:
    """Features of many clips in one file. `cache[i]` is float16 [T, M]."""

    def __init__(
        self, clips: list[Clip], folder: Path, name: str, variant: Variant | None = None, mels: int = 80
    ) -> None:
        self.clips, self.mels = clips, mels
        digest = hashlib.sha256("\n".join(f"{c.id} {c.audio.name}" for c in clips).encode()).hexdigest()[:12]
        self.path = folder / f"{name}-{digest}.f16"
        if not self.path.exists():
            self._build(variant)
        self.offsets: np.ndarray = np.array(json.loads(self.path.with_suffix(".json").read_text()))
        self.data = np.memmap(self.path, np.float16, "r").reshape(-1, mels)

    def _build(self, variant: Variant | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

        def features(item: tuple[int, Clip]) -> np.ndarray:
            index, clip = item
            samples = load_clip(clip.source, name=str(clip.audio))
            if variant is not None:
                samples = variant(samples, index)
            return (
                log_mel(torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)), AudioConfig()).half().numpy()
            )

        offsets, partial = [0], self.path.with_suffix(".partial")
        with partial.open("wb") as file, ThreadPoolExecutor(2) as pool:
            for mel in tqdm(pool.map(features, enumerate(self.clips)), total=len(self.clips), desc=self.path.stem):
                file.write(mel.tobytes())
                offsets.append(offsets[-1] + len(mel))
        self.path.with_suffix(".json").write_text(json.dumps(offsets))
        os.replace(partial, self.path)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.data[self.offsets[index] : self.offsets[index + 1]]

    def frames(self, index: int) -> int:
        """Length of clip `index` in log-mel frames."""
        return int(self.offsets[index + 1] - self.offsets[index])
