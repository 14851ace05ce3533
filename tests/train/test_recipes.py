"""Every shipped recipe parses against its code, and its debug twin takes two steps on data made here."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import typing
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import soundfile
import torch

from omni.config import LlmConfig, build
from omni.data.corpora import exchanges as corpus
from omni.data.manifest import Clip, write
from omni.errors import ConfigError, DataError
from omni.models.speech_llm import SpeechLLM
from omni.phones import normalise
from omni.text import SOUND, Vocabulary, spoken_form
from omni.train.recipe import load_recipe
from omni.train.speaking import IGNORED, ExpressTask, LanguageModelTask, SpeakingData, Swapped, load_language_model
from omni.train.stages import STAGES, train
from omni.turns import EMOTIONS
from tests.tiny import REPOSITORY, SAMPLE_RATE_HZ, TEXTS, voiced_clip

#: `accelerate/` holds configurations of the launcher.
RECIPES = sorted(p for p in REPOSITORY.glob("recipes/**/*.yaml") if p.parent.name != "accelerate")
NAMES = [str(p.relative_to(REPOSITORY)) for p in RECIPES]
#: The module's dataclass that reads a recipe's `data` block, and the field of the checkpoint that reads `model`.
MODELS = {"listener": "ListenerConfig", "language_model": "LlmConfig", "express": "LlmConfig", "perceiver": "PerceiverConfig",
          "voice": "DecoderConfig", "voice_express": "DecoderConfig", "vocoder": "VocoderConfig"}  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
@pytest.mark.parametrize("debug", [False, True], ids=["whole", "twin"])
def test_it_parses_and_names_a_stage_that_exists(path: Path, debug: bool) -> None:
    recipe = load_recipe(path, debug)
    assert recipe.part in STAGES, recipe.part
    module, name = STAGES[recipe.part].split(":")
    task = getattr(importlib.import_module(module), name)
    assert callable(task)
    if debug:
        assert recipe.steps == 2
    else:
        assert recipe.debug, "a recipe needs a debug twin"


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
@pytest.mark.parametrize("debug", [False, True], ids=["whole", "twin"])
def test_its_blocks_fit_the_code_that_reads_them(path: Path, debug: bool) -> None:
    import omni.config

    recipe = load_recipe(path, debug)
    if recipe.part not in STAGES:
        pytest.fail(f"no stage {recipe.part!r}")
    module = importlib.import_module(STAGES[recipe.part].split(":")[0])
    readers = [v for k, v in vars(module).items() if k.endswith("Data") and isinstance(v, type) and is_dataclass(v)]
    own = [r for r in readers if r.__module__ == module.__name__] or readers
    assert own, f"{module.__name__} has no dataclass for its data block"
    build(typing.cast(type, own[0]), recipe.data, f"{path.name}.data")
    if recipe.part in MODELS:
        build(getattr(omni.config, MODELS[recipe.part]), recipe.model, f"{path.name}.model")


def test_the_order_of_stages_is_in_the_names() -> None:
    numbered = [p.name for p in RECIPES if p.parent.name == "mini"]
    assert all(name[0] in "0123" and name[1] == "_" for name in numbered)


# -- what a recipe may say ---------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_twin_merges_blocks_and_replaces_values(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "part: listener\nsteps: 9\nlearning_rate: 1\ndata: {a: 1, b: 2}\ndebug: {steps: 2, data: {b: 3}}\n",
    )
    assert load_recipe(path).data == {"a": 1, "b": 2}
    twin = load_recipe(path, debug=True)
    assert (twin.steps, twin.learning_rate, twin.data) == (2, 1.0, {"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("part: listener\nsteps: 9\nlearning_rate: 1\nspeed: 3\n", "unknown key 'speed'"),
        ("part: listener\nsteps: 9\n", "missing key 'learning_rate'"),
        ("part: listener\nsteps: many\nlearning_rate: 1\n", "steps: expected int, got 'many'"),
        ("part: [", "is not readable YAML"),
        ("- a\n", "expected a block of keys"),
    ],
)
def test_bad_recipes_are_refused_by_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load_recipe(written(tmp_path, text))
    assert "recipe.yaml" in str(error.value)


def test_missing_binary_or_folder_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    for bad in (tmp_path / "binary.yaml", tmp_path):
        with pytest.raises(ConfigError, match="is not readable"):
            load_recipe(bad)


# -- the twins of the listener and the language model ------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the layout that the recipes expect, with very little in it."""
    folder = tmp_path_factory.mktemp("data")
    speech = folder / "librispeech"
    (speech / "audio").mkdir(parents=True)
    clips = []
    for number, speaker in enumerate(["19", "26", "32", "84"]):
        path = speech / "audio" / f"{number}.flac"
        soundfile.write(path, voiced_clip(1.1 + 0.1 * number, 100 + 30 * number, number), SAMPLE_RATE_HZ)
        clips.append(Clip(f"{speaker}-{number}", path, speaker, "my dog ran", duration_s=1.1 + 0.1 * number))
    write(speech / "train.jsonl", clips)
    for name in sorted({n for p in RECIPES for n in load_recipe(p).data.get("dialogues", [])}):
        (folder / name).parent.mkdir(exist_ok=True)
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            for start in range(40):
                turns = [TEXTS[(start + k) % len(TEXTS)] for k in range(12)]
                file.write(json.dumps({"turns": [{"text": t} for t in turns] if start % 2 else turns}) + "\n")
    return folder


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds the corpus where the recipes look for it, smaller."""
    target = tmp_path / corpus.FOLDER
    target.mkdir(parents=True)
    for path in sorted((REPOSITORY / corpus.FOLDER).glob("*.jsonl"))[::3]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (target / path.name).write_text("".join(lines[:60]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_listeners_twin_takes_its_steps(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(REPOSITORY / "recipes/mini/0_listener.yaml", debug=True)
    trainer = train(recipe, data, tmp_path / "runs" / "listener")
    assert trainer.step == 2
    export = tmp_path / "runs" / "listener" / "export"
    assert {p.name for p in export.iterdir()} == {"listener.safetensors", "listener.yaml", "units.txt"}
    held = {c.speaker for c in trainer.task.validation.clips}  # type: ignore[attr-defined]
    trained = {c.speaker for c in trainer.task.variants[0].clips}  # type: ignore[attr-defined]
    assert held == {"32"}
    assert trained == {"19", "26", "84"}


@pytest.mark.slow
def test_the_language_models_and_then_expresss_twins_take_their_steps(data: Path, at_home: Path) -> None:
    runs = at_home / "runs"
    first = load_recipe(REPOSITORY / "recipes/mini/0_language_model.yaml", debug=True)
    assert train(first, data, runs / "language_model").step == 2
    export = runs / "language_model" / "export"
    assert {p.name for p in export.iterdir()} >= {
        "language_model.safetensors",
        "tokenizer.json",
        "names.json",
        "llm.yaml",
    }
    config = build(LlmConfig, first.model, "model")
    loaded = load_language_model(export, config)
    reached = dict(loaded.named_parameters())
    for name, weight in train(first, data, runs / "language_model").task.model.named_parameters():
        assert torch.allclose(weight, reached[name], atol=2e-3, rtol=2e-3), name
    second = load_recipe(REPOSITORY / "recipes/mini/2_express.yaml", debug=True)
    second.data["start_from"] = "language_model"  # as the recipe itself does
    trainer = train(second, data, runs / "express")
    assert trainer.step == 2
    assert (runs / "express" / "export" / "spoken_before.safetensors").is_file()
    assert (runs / "express" / "export" / "exemplars.safetensors").is_file()


def test_express_is_shown_other_situations_only_and_never_held_out_ones(data: Path, at_home: Path) -> None:
    task = express(data, at_home)
    flat = [1 / len(EMOTIONS)] * len(EMOTIONS)
    for dialogue in (task.train_dialogues[0], task.held_dialogues[0]):
        asked = dialogue[0]
        shown = task.examples(asked, normalise(asked.say), flat, None)
        own = {tuple(task.vocabulary.encode(normalise(e.say))) for e in dialogue}
        reply = shown[shown.index(task.vocabulary.ids["<|say|>"]) + 1 : -1]
        query = shown[3 : shown.index(task.vocabulary.ids["<|say|>"])]
        assert tuple(query) in task.exemplars.queries
        assert tuple(query) not in own
        assert tuple(reply) in task.exemplars.replies
    held = {tuple(task.vocabulary.encode(spoken_form(e.reply))) for d in task.held_dialogues for e in d}
    assert not held & set(task.exemplars.replies)
    assert len(express(data, at_home, exemplars=0).sequence(dialogue, None)[0]) < len(task.sequence(dialogue, None)[0])


def express(data: Path, at_home: Path, **model: int) -> ExpressTask:
    recipe = load_recipe(REPOSITORY / "recipes/mini/2_express.yaml", debug=True)
    recipe.model.update(model)
    return ExpressTask(recipe, data, at_home / "cache")


def test_express_scores_labels_and_replies_but_not_what_was_heard(data: Path, at_home: Path) -> None:
    task = express(data, at_home)
    talk = max(task.held_dialogues, key=len)
    ids, targets, posteriors = task.sequence(talk, None)
    names = {i: t for t, i in task.vocabulary.ids.items()}
    scored = [names[t] for t in targets if t != IGNORED]
    assert len(posteriors) == len(talk) == ids.count(task.vocabulary.ids[SOUND])
    assert scored.count("<|end|>") == scored.count("<|say|>") == len(talk)
    assert not {"<|user|>", "<|listen|>", "<|perceive|>", "<|express|>", "<|sound|>"} & set(scored)
    assert sum(t.startswith(("<emotion", "<intensity", "<match")) for t in scored) == 0
    assert [t for t in scored if t.startswith("<style:")] == [f"<style:{e.style}>" for e in talk]
    for here, after in zip(targets[:-1], ids[1:], strict=True):
        assert here in (IGNORED, after)
    for exchange, posterior in zip(talk, posteriors, strict=True):
        assert sum(posterior) == pytest.approx(1)
        assert max(posterior) == posterior[corpus.FIELDS["emotion"].index(exchange.emotion)]


def test_a_dialogue_that_is_cut_keeps_emotions_in_their_places(data: Path, at_home: Path) -> None:
    task = express(data, at_home, context_tokens=40)
    rows = [task.sequence(talk, None) for talk in (task.train_dialogues + task.held_dialogues)]
    for ids, targets, posteriors in rows:
        assert len(ids) == len(targets) <= 40
        assert len(posteriors) == ids.count(task.vocabulary.ids[SOUND])


def test_held_out_situations_are_not_trained_on(data: Path, at_home: Path) -> None:
    task = express(data, at_home)
    train_names = {e.situation for d in task.train_dialogues for e in d}
    held_names = {e.situation for d in task.held_dialogues for e in d}
    assert train_names
    assert held_names
    assert not train_names & held_names


def test_too_little_text_is_refused(data: Path, at_home: Path) -> None:
    recipe = load_recipe(REPOSITORY / "recipes/mini/0_language_model.yaml", debug=True)
    recipe.data["largest_dialogues"] = 1
    recipe.data["dialogues"] = recipe.data["dialogues"][:1]
    build(SpeakingData, recipe.data, "data")
    (data / recipe.data["dialogues"][0]).with_name("one.jsonl").write_text(
        '{"turns": ["hello there", "good morning"]}\n'
    )
    recipe.data["dialogues"] = [str(Path(recipe.data["dialogues"][0]).with_name("one.jsonl"))]
    with pytest.raises(DataError, match="needs more text"):
        LanguageModelTask(recipe, data, at_home / "cache")


def test_missing_data_says_where_it_was_looked_for(tmp_path: Path) -> None:
    recipe = load_recipe(REPOSITORY / "recipes/mini/0_listener.yaml", debug=True)
    with pytest.raises(DataError, match=r"no manifest at .*librispeech/train\.jsonl; give its folder with --data"):
        train(recipe, tmp_path, tmp_path / "run")


def test_a_language_model_of_other_sizes_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    vocabulary = Vocabulary.train(TEXTS, 150)
    vocabulary.save(tmp_path)
    config = LlmConfig(vocabulary=len(vocabulary), width=8, layers=1, heads=2, key_value_heads=2, feedforward=8)
    weights = SpeechLLM(config, vocabulary).state_dict()
    kept = {k: v.clone() for k, v in weights.items() if "norm" not in k and "lm_head" not in k}
    save_file(kept, tmp_path / "language_model.safetensors")
    with pytest.raises(DataError, match="does not hold this language model"):
        load_language_model(tmp_path, config)


def test_reading_a_recipe_has_no_effect_on_the_next_reading() -> None:
    path = REPOSITORY / "recipes/mini/2_express.yaml"
    load_recipe(path, debug=True).data["start_from"] = "elsewhere"
    assert load_recipe(path, debug=True).data["start_from"] is None


def test_swapping_changes_the_same_words_in_query_and_reply() -> None:
    swapped = Swapped(["the garden and the harbour", "violins everywhere"])
    draw = random.Random(0)
    seen = set()
    for _ in range(20):
        query, reply = swapped("My Tractor hit the fence.", "A tractor in the fence! Was the tractor damaged?", draw)
        assert query.split()[0] == "my"
        assert query.split()[2:4] == ["hit", "the"]
        new, fence = query.split()[1], query.split()[4]
        assert (new, fence) != ("tractor", "fence")
        assert reply == f"a {new} in the {fence}! was the {new} damaged?"
        seen.add(new)
    assert seen == {"tractor", "garden", "harbour", "violins", "everywhere"}
    assert swapped("It is so.", "Is it?", draw) == ("it is so", "is it?")
