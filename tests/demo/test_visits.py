"""What a tab remembers, and what is exported of it."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import soundfile

from omni.demo.export import folder_name, transcript, zipped
from omni.demo.visits import LONGEST_NAME, Talk, Visit, Visits
from omni.errors import UsageError
from omni.turns import Audio, Turn
from tests.tiny import voiced_clip


def test_conversations_are_begun_named_chosen_and_deleted(turn: Turn) -> None:
    visit = Visit()
    visit.talk.add(turn, Audio(voiced_clip(0.5)))
    visit.rename("  At   the lake ")
    visit.new()
    assert visit.names == ["At the lake", "Conversation 2"]
    assert visit.last is None
    visit.choose("At the lake")
    assert visit.last is turn
    visit.delete()
    assert visit.names == ["Conversation 2"]
    visit.delete()
    assert visit.names == ["Conversation 3"]
    assert visit.talk.conversation.turns == ()


@pytest.mark.parametrize(
    ("name", "says"), [("", "1 to 60"), ("x" * (LONGEST_NAME + 1), "61"), ("Conversation 1", "already")]
)
def test_names_that_do_not_fit_are_refused(name: str, says: str) -> None:
    visit = Visit()
    visit.new()
    with pytest.raises(UsageError, match=says):
        visit.rename(name)
    assert visit.talk.name == "Conversation 2"


def test_a_name_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(UsageError, match="Conversation 1"):
        Visit().choose("other")


def test_visits_are_apart_and_the_idlest_is_forgotten() -> None:
    visits = Visits(most=2)
    one, two = visits.open(), visits.open()
    assert visits.get(one.token) is one
    three = visits.open()
    assert [visits.get(v.token) for v in (one, three)] == [one, three]
    with pytest.raises(UsageError, match="reload"):
        visits.get(two.token)
    visits.close(one.token)
    visits.close(one.token)
    assert len(visits) == 1


def test_an_export_has_sound_json_and_a_transcript(turn: Turn) -> None:
    talk = Talk("A day: at the lake!")
    for _ in range(2):
        talk.add(turn, Audio(voiced_clip(0.7)))
    with zipfile.ZipFile(io.BytesIO(zipped(talk))) as archive:
        names = [f"a-day-at-the-lake/{n}" for n in ("01-you.wav", "01-omni.wav", "02-you.wav", "02-omni.wav")]
        assert set(archive.namelist()) == {
            *names, "a-day-at-the-lake/conversation.json", "a-day-at-the-lake/transcript.txt"
        }  # fmt: skip
        assert soundfile.info(io.BytesIO(archive.read(names[0]))).duration == pytest.approx(0.7)
        told = json.loads(archive.read("a-day-at-the-lake/conversation.json"))
        assert archive.read("a-day-at-the-lake/transcript.txt").decode() == transcript(talk)
    assert told["name"] == talk.name
    assert [row["you"]["text"] for row in told["turns"]] == [turn.heard.text] * 2
    assert told["turns"][0]["perceived"]["emotion"] == "sad"
    assert told["turns"][1]["omni"]["audio"] == "02-omni.wav"
    assert turn.reply.text in transcript(talk)


def test_nothing_said_nothing_exported() -> None:
    with pytest.raises(UsageError, match="speak first"):
        zipped(Talk("empty"))


@pytest.mark.parametrize(("name", "folder"), [("../../etc", "etc"), ("你好", "conversation"), ("A b", "a-b")])
def test_folder_names_are_harmless(name: str, folder: str) -> None:
    assert folder_name(name) == folder
