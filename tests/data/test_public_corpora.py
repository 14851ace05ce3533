"""Corpora in their public layouts, each on a tiny copy made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from omni.data.corpora import common_voice, crema_d, empathetic_dialogues, esd, iemocap, librispeech, meld
from omni.errors import DataError
from omni.turns import EMOTIONS


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "train-clean-100" / "1088" / "134315"
    put(chapter / "1088-134315.trans.txt", "1088-134315-0000 AS YOU KNOW\n1088-134315-0001 AND AS I\n")
    for name in ("0000", "0001"):
        put(chapter / f"1088-134315-{name}.flac")
    first, second = librispeech.read(tmp_path)
    assert (first.speaker, first.text, first.audio.name) == ("1088", "AS YOU KNOW", "1088-134315-0000.flac")
    assert second.id == "1088-134315-0001"
    (chapter / "1088-134315-0001.flac").unlink()
    with pytest.raises(DataError, match=r"trans\.txt:2: no words or no 1088-134315-0001\.flac"):
        librispeech.read(tmp_path)


def test_common_voice(tmp_path: Path) -> None:
    table = 'client_id\tpath\tsentence\tup_votes\nabc\tcommon_voice_en_1.mp3\tShe said "no.\t2\n'
    put(tmp_path / "validated.tsv", table)
    (clip,) = common_voice.read(tmp_path)
    assert (clip.speaker, clip.text) == ("abc", 'She said "no.')
    assert clip.audio == tmp_path / "clips" / "common_voice_en_1.mp3"
    put(tmp_path / "dev.tsv", "client_id\tpath\nabc\tx.mp3\n")
    with pytest.raises(DataError, match="no column sentence"):
        common_voice.read(tmp_path, "dev")


def test_crema_d(tmp_path: Path) -> None:
    for name in ("1001_DFA_ANG_XX", "1002_IEO_SAD_HI", "1003_XXX_SAD_HI", "notes"):
        put(tmp_path / "AudioWAV" / f"{name}.wav")
    angry, sad = crema_d.read(tmp_path)
    assert (angry.speaker, angry.emotion, angry.intensity) == ("cremad-1001", "angry", None)
    assert (sad.emotion, sad.intensity, sad.text) == ("sad", "strong", "IT'S ELEVEN O'CLOCK")
    assert len(crema_d.SENTENCES) == 12


@pytest.mark.parametrize("split", ["", "train/"])
def test_esd(tmp_path: Path, split: str) -> None:
    put(tmp_path / "0011" / "0011.txt", "\ufeff0011_000351\tThe nine the eggs, I keep.\tAngry\n0011_000352\tx\tAngry\n")
    put(tmp_path / "0011" / f"Angry/{split}0011_000351.wav")
    put(tmp_path / "0011" / f"Surprise/{split}0011_001401.wav")
    put(tmp_path / "0001" / "Angry" / "0001_000351.wav")
    angry, surprised = esd.read(tmp_path)  # 0001 speaks Mandarin
    assert (angry.emotion, angry.text, angry.speaker) == ("angry", "The nine the eggs, I keep.", "esd-0011")
    assert (surprised.emotion, surprised.text) == ("surprised", None)
    assert len(esd.read(tmp_path, ("0001",))) == 1


def test_meld(tmp_path: Path) -> None:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    rows = '1,"also I was, the point",Chandler,neutral,neutral,0,0,8,21,a,b\n2,You\x92re fine,Joey,joy,positive,0,1,8,21,a,b\n'
    put(tmp_path / "train_sent_emo.csv", header + rows + "3,No sound,Joey,anger,negative,7,2,8,21,a,b\n")
    put(tmp_path / "train_splits" / "dia0_utt0.mp4")
    put(tmp_path / "train_splits" / "dia0_utt1.mp4")
    put(tmp_path / "train_splits" / "dia0_utt1.wav")
    first, second = meld.read(tmp_path)
    assert (first.text, first.speaker, first.emotion) == ("also I was, the point", "Chandler", "neutral")
    assert (second.text, second.emotion, second.audio.suffix) == ("You're fine", "happy", ".wav")
    assert second.extra == {"dialogue": 0, "turn": 1}
    with pytest.raises(DataError, match=r"no extra_sent_emo\.csv .* parts are train, dev, test"):
        meld.read(tmp_path, "extra")


def test_iemocap(tmp_path: Path) -> None:
    session = tmp_path / "Session1"
    put(
        session / "dialog/EmoEvaluation/Ses01F_impro01.txt",
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
        "[10.0 - 11.0]\tSes01F_impro01_M001\texc\t[4.0000, 3.5000, 3.0000]\n"
        "[12.0 - 13.0]\tSes01F_impro01_F001\txxx\t[2.0000, 3.5000, 3.0000]\n",
    )
    put(session / "dialog/transcriptions/Ses01F_impro01.txt", "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n")
    for name in ("F000", "M001", "F001"):
        put(session / f"sentences/wav/Ses01F_impro01/Ses01F_impro01_{name}.wav")
    neutral, happy = iemocap.read(tmp_path)
    assert (neutral.text, neutral.emotion, neutral.speaker) == ("Excuse me.", "neutral", "iemocap-01F")
    assert neutral.duration_s == pytest.approx(1.946)
    assert (happy.emotion, happy.speaker, happy.text) == ("happy", "iemocap-01M", None)
    assert happy.extra == {"valence": 4.0, "activation": 3.5, "dominance": 3.0}


def test_empathetic_dialogues(tmp_path: Path) -> None:
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    rows = (
        "hit:0_conv:1,2,sentimental,I remember a party_comma_ long ago.,0,Was he a friend?,5|5|5_2|2|5,\n"
        "hit:0_conv:1,1,sentimental,I remember a party_comma_ long ago.,1,I remember_comma_ well.,5|5|5_2|2|5,\n"
        "hit:1_conv:2,1,afraid,The dark.,2,It is dark.,5|5|5_2|2|5,,extra,fields\n"
    )
    put(tmp_path / "train.csv", header + rows)
    first, second = empathetic_dialogues.read(tmp_path)
    assert first.turns == ("I remember, well.", "Was he a friend?")
    assert (first.emotion, first.situation) == ("sentimental", "I remember a party, long ago.")
    assert second.turns == ("It is dark.",)


@pytest.mark.parametrize(
    "read",
    [librispeech.read, common_voice.read, crema_d.read, esd.read, meld.read, iemocap.read, empathetic_dialogues.read],
)
def test_an_empty_folder_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        read(tmp_path)


def test_every_label_is_one_of_ours() -> None:
    for module in (crema_d, esd, meld, iemocap):
        assert set(module.EMOTIONS.values()) <= set(EMOTIONS)
