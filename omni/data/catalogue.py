"""Which corpora can be had and how: those that `omni data get` fetches, and what to do for the others.

Sizes and SHA-256 of LibriSpeech: torchaudio's and TensorFlow Datasets' lists of openslr.org/12, which agree; of
EmpatheticDialogues: ParlAI's and Hugging Face's lists; size and MD5 of RAVDESS: Zenodo record 1188976.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlparse

from omni.errors import DataError, UsageError


@dataclass(frozen=True)
class Archive:
    """One published file: its address, `size_bytes`, `checksum` (`sha256:...`, `md5:...`; empty: none is published).

    What lies in the folder `inside` of it goes into the corpus's folder, where `proof` shows that it is there. It takes
    about `growth` times its size unpacked.
    """

    url: str
    size_bytes: int
    checksum: str
    proof: str
    inside: str = ""
    growth: float = 1.1

    @property
    def name(self) -> str:
        """The last part of the address: `dev-clean.tar.gz`."""
        return PurePosixPath(urlparse(self.url).path).name


@dataclass(frozen=True)
class Corpus:
    """A corpus: `parts` that can be fetched, or `by_hand`, the one line that says what to do instead."""

    name: str
    about: str
    licence: str
    home: str
    folder: str
    parts: dict[str, Archive]
    by_hand: str = ""

    def row(self) -> str:
        """One line of `omni data get --list`."""
        size = f"{sum(a.size_bytes for a in self.parts.values()) / 1e9:.2f} GB" if self.parts else "by hand"
        parts = f": {', '.join(self.parts)}" if len(self.parts) > 1 else ""
        return f"{self.name:20} {size:>9}  {self.licence:18} {self.about}{parts}"


def _librispeech(part: str, size_bytes: int, sha256: str) -> Archive:
    return Archive(
        f"https://www.openslr.org/resources/12/{part}.tar.gz", size_bytes, f"sha256:{sha256}", part, "LibriSpeech"
    )


LIBRISPEECH = {
    "dev-clean": (337_926_286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": (314_305_928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": (346_663_984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    "test-other": (328_757_843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
    "train-clean-100": (6_387_309_499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    "train-clean-360": (23_049_477_885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    "train-other-500": (30_593_501_606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
}

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "librispeech", "read English, 1000 h", "CC BY 4.0", "https://www.openslr.org/12", "librispeech",
            {part: _librispeech(part, *facts) for part, facts in LIBRISPEECH.items()},
        ),
        Corpus(
            "ravdess", "acted emotional speech, 24 actors", "CC BY-NC-SA 4.0", "https://zenodo.org/records/1188976",
            "ravdess",
            {
                "speech": Archive(
                    "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
                    208_468_073, "md5:bc696df654c87fed845eb13823edef8a", "Actor_24", growth=4.0,
                )
            },
        ),
        Corpus(
            "empatheticdialogues", "written talks about a feeling", "CC BY-NC 4.0",
            "https://github.com/facebookresearch/EmpatheticDialogues", "empatheticdialogues",
            {
                "tables": Archive(
                    "https://dl.fbaipublicfiles.com/parlai/empatheticdialogues/empatheticdialogues.tar.gz",
                    28_022_709, "sha256:56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d",
                    "train.csv", "empatheticdialogues", growth=5.0,
                )
            },
        ),
        Corpus(
            "crema-d", "acted emotional speech, 91 actors", "ODbL 1.0",
            "https://github.com/CheyneyComputerScience/CREMA-D", "crema_d", {},
            "with git-lfs installed: git clone https://github.com/CheyneyComputerScience/CREMA-D DATA/crema_d",
        ),
        Corpus(
            "esd", "emotional speech, ten English speakers", "for research only",
            "https://github.com/HLTSingapore/Emotional-Speech-Data", "esd", {},
            "sign the licence form on https://github.com/HLTSingapore/Emotional-Speech-Data, send it in, "
            "unpack what the page links to into DATA/esd",
        ),
        Corpus(
            "iemocap", "acted dialogues with ratings", "for research only", "https://sail.usc.edu/iemocap/", "iemocap",
            {},
            "ask for it with the release form on https://sail.usc.edu/iemocap/ and unpack it into DATA/iemocap",
        ),
        Corpus(
            "meld", "turns of a television series", "GPL-3.0", "https://github.com/declare-lab/MELD", "meld", {},
            "its page https://github.com/declare-lab/MELD says where MELD.Raw.tar.gz lies; its sound is a television "
            "series', so check that you may use it; unpack it into DATA/meld",
        ),
        Corpus(
            "common_voice", "sentences read by volunteers", "CC0", "https://commonvoice.mozilla.org/", "common_voice",
            {},
            "make an account at https://commonvoice.mozilla.org/, agree to its terms and unpack a language into "
            "DATA/common_voice",
        ),
    )
}  # fmt: skip


def find(name: str) -> tuple[Corpus, dict[str, Archive]]:
    """The corpus and the parts that `name` stands for: `librispeech` all of them, `librispeech/dev-clean` one.

    UsageError for a name that is not in the catalogue, DataError for a corpus that cannot be fetched: what to do instead.
    """
    wanted, _, part = name.partition("/")
    corpus = CORPORA.get(wanted)
    if corpus is None:
        raise UsageError(f"there is no corpus {wanted!r} in the catalogue; allowed: {', '.join(CORPORA)}")
    if not corpus.parts:
        raise DataError(f"{corpus.name} is not fetched by a program: {corpus.by_hand} (DATA is the folder of --data)")
    if part and part not in corpus.parts:
        raise UsageError(f"{corpus.name} has no part {part!r}; allowed: {', '.join(corpus.parts)}")
    return corpus, {part: corpus.parts[part]} if part else dict(corpus.parts)
