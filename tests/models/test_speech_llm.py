"""The language model: cached equals uncached, the grammar holds, sampling is repeatable, blocked runs are not said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni.models.memory import Memory
from omni.models.speech_llm import Draft, SpeechLLM, make_llm
from omni.nn.sampling import Blocker
from omni.phones import normalise
from omni.text import END, EXPRESS, FIELDS, SAY, SPECIALS, Vocabulary, label
from omni.train.losses import scored_nats
from omni.turns import EMOTIONS, FITTING_STYLES
from tests.tiny import TEXTS, TINY


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.train(TEXTS * 3, TINY.llm.vocabulary)


@pytest.fixture(scope="module")
def llm(vocabulary: Vocabulary) -> SpeechLLM:
    torch.manual_seed(5)
    made = SpeechLLM(replace(TINY.llm, vocabulary=len(vocabulary)), vocabulary)
    for weight in made.parameters():
        weight.data *= 4.0  # far from uniform, so that mistakes show
    return made.eval()


def prompt_of(vocabulary: Vocabulary, text: str = TEXTS[0], slots: int = 1) -> list[int]:
    return vocabulary.prompt(text, slots) + vocabulary.perceived("sad", "strong", "adds")


def whole(llm: SpeechLLM, ids: list[int], sound: torch.Tensor | None = None) -> torch.Tensor:
    """Log-probabilities [L, V] without any cache."""
    with torch.no_grad():
        row = torch.tensor([ids])
        embeddings = llm.embed(row, sound)
        out = llm.model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
        states, copying = out.hidden_states[-1], llm.copying
        assert copying is not None
        before = torch.cat([torch.zeros(1, 1, TINY.llm.width), embeddings[:, :-1]], 1)
        return copying.mixture(out.logits, states, row, copying.keys(embeddings, before, states))[0]


def test_cached_equals_uncached(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    ids, sound = prompt_of(vocabulary, slots=2), torch.randn(1, 2, TINY.llm.width)
    cache, _ = llm.prefill(ids[:5], sound)
    for start, stop in ((5, 6), (6, 9), (9, len(ids))):
        cache, logits = llm.prefill(ids[start:stop], memory=cache)
        expected = whole(llm, ids[:stop], sound)[-1]
        assert torch.allclose(logits[0].log_softmax(-1), expected, atol=1e-4)


def test_the_sound_is_heard(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    ids = prompt_of(vocabulary)
    first, second = (whole(llm, ids, torch.randn(1, 1, TINY.llm.width)) for _ in range(2))
    assert torch.equal(first[0], second[0])  # before the slot nothing changes
    assert not torch.allclose(first[-1], second[-1], atol=1e-3)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_plan_is_well_formed_whatever_the_weights(vocabulary: Vocabulary, emotion: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        random = SpeechLLM(replace(TINY.llm, vocabulary=len(vocabulary)), vocabulary).eval()
        for weight in random.parameters():
            weight.data *= 10.0
        plan, written, cache, _ = random.plan(
            prompt_of(vocabulary), FITTING_STYLES[emotion], torch.randn(1, 1, TINY.llm.width)
        )
        assert plan.style in FITTING_STYLES[emotion]
        assert written == [*vocabulary.expressed(plan), vocabulary.ids[SAY]]
        assert cache.cache.get_seq_length() == len(prompt_of(vocabulary)) + len(written)
        assert all(getattr(plan, f) in FIELDS[f] for f in ("need", "strategy", "intent"))


def test_plan_takes_the_likeliest_label(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    ids, sound = prompt_of(vocabulary), torch.randn(1, 1, TINY.llm.width)
    plan, _, _, _ = llm.plan(ids, FITTING_STYLES["sad"], sound)
    seen = [*ids, vocabulary.ids[EXPRESS]]
    for field in ("need", "strategy", "intent", "style"):
        allowed = FITTING_STYLES["sad"] if field == "style" else FIELDS[field]
        options = {v: float(whole(llm, seen, sound)[-1, vocabulary.ids[label(field, v)]]) for v in allowed}
        assert getattr(plan, field) == max(options, key=lambda v: options[v])
        seen.append(vocabulary.ids[label(field, getattr(plan, field))])


def sentences_of(llm: SpeechLLM, memory: Memory, first: torch.Tensor, seed: int, **options: int) -> list[Draft]:
    return llm.sentences(memory, first, torch.Generator().manual_seed(seed), [], **options)


def drafts_of(llm: SpeechLLM, vocabulary: Vocabulary, seed: int) -> list[tuple[list[int], float]]:
    _, _, memory, first = llm.plan(prompt_of(vocabulary, slots=0), FITTING_STYLES["sad"])
    return [(d.ids, d.score) for d in sentences_of(llm, memory, first, seed)]


def test_same_seed_same_drafts_other_seed_others(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    torch.manual_seed(1)
    first = drafts_of(llm, vocabulary, 7)
    torch.manual_seed(2)  # the global generator has no say
    assert drafts_of(llm, vocabulary, 7) == first
    assert drafts_of(llm, vocabulary, 8) != first
    assert len({tuple(ids) for ids, _ in first}) > 1  # candidates differ from each other


def test_drafts_are_single_sentences_of_words_and_best_come_first(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    for seed in range(5):
        _, _, memory, first = llm.plan(prompt_of(vocabulary, slots=0), FITTING_STYLES["happy"])
        drafts = sentences_of(llm, memory, first, seed, count=4)
        assert 1 <= len(drafts) <= 4  # the slowest are given up
        assert [d.score for d in drafts] == sorted((d.score for d in drafts), reverse=True)
        for draft in drafts:
            assert len(draft.ids) <= llm.config.reply_tokens
            assert min(draft.ids) >= len(SPECIALS)
            assert draft.states.shape == (len(draft.ids), llm.config.width)
            assert not set(draft.ids[:-1]) & vocabulary.stops
            assert draft.finished or draft.ids[-1] in vocabulary.stops
            triples = [tuple(draft.ids[i : i + 3]) for i in range(len(draft.ids) - 2)]
            assert len(set(triples)) == len(triples)


def test_states_of_a_draft_are_those_of_reading_it(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    prompt = prompt_of(vocabulary, slots=0)
    _, written, memory, first = llm.plan(prompt, FITTING_STYLES["sad"])
    draft = sentences_of(llm, memory, first, 3)[-1]
    with torch.no_grad():
        read = llm.model.model(input_ids=torch.tensor([prompt + written + draft.ids]), use_cache=False)
    assert torch.allclose(read.last_hidden_state[0, -len(draft.ids) :], draft.states, atol=1e-3)


def test_sampling_leaves_the_memory_as_it_was(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    """So that the chosen sentence can be read on top of it: the same as reading everything at once."""
    prompt = prompt_of(vocabulary, slots=0)
    _, written, memory, first = llm.plan(prompt, FITTING_STYLES["sad"])
    draft = sentences_of(llm, memory, first, 1)[0]
    memory, following = llm.prefill(draft.ids, memory=memory)
    assert memory.ids[0].tolist() == prompt + written + draft.ids
    assert torch.allclose(following[0], whole(llm, prompt + written + draft.ids)[-1], atol=1e-4)


def test_log_likelihood_equals_a_plain_loop(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    end = vocabulary.ids[END]
    prompt = prompt_of(vocabulary)
    targets = [[*vocabulary.encode(t), end] for t in ("yes.", TEXTS[3])] + [vocabulary.encode(TEXTS[8]), [end]]
    sound = torch.randn(1, 1, TINY.llm.width)
    memory, following = llm.prefill(prompt, sound)
    for _ in range(2):  # the memory is left as it was
        found = llm.log_likelihood(memory, following, targets)
        assert found.shape == (1, 4)
        for target, score in zip(targets, found[0].tolist(), strict=True):
            scores = whole(llm, prompt + target, sound)
            each = [float(scores[len(prompt) - 1 + i, token]) for i, token in enumerate(target)]
            assert score == pytest.approx(sum(each) / len(target), abs=1e-4)


def test_rows_of_a_joined_memory_are_read_as_if_alone(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    prompts = [prompt_of(vocabulary, slots=0), vocabulary.encode(TEXTS[3]), vocabulary.encode(TEXTS[8] + TEXTS[6])]
    after, target = vocabulary.encode(TEXTS[1]), vocabulary.encode(TEXTS[11])
    alone = [llm.prefill(p) for p in prompts]
    memory = Memory.joined([m for m, _ in alone])
    firsts = torch.cat([f for _, f in alone])
    wanted = torch.cat([llm.log_likelihood(m, f, [target, after]) for m, f in alone])
    assert torch.allclose(llm.log_likelihood(memory, firsts, [target, after]), wanted, atol=1e-4)
    memory, following = llm.prefill(after, memory=memory)
    for row, prompt in enumerate(prompts):
        assert torch.allclose(following[row], whole(llm, prompt + after)[-1], atol=1e-4)


def test_each_row_of_a_memory_gives_its_share_of_the_candidates(llm: SpeechLLM, vocabulary: Vocabulary) -> None:
    alone = [llm.prefill(vocabulary.encode(t)) for t in (TEXTS[3], TEXTS[8])]
    memory, firsts = Memory.joined([m for m, _ in alone]), torch.cat([f for _, f in alone])
    drafts = [d for seed in range(6) for d in sentences_of(llm, memory, firsts, seed, count=8) if d.ids]
    rows = set()
    for draft in drafts:
        ends = [vocabulary.ids[END]] * (draft.finished and len(draft.ids) < TINY.llm.reply_tokens)
        apart = (llm.log_likelihood(memory, firsts, [draft.ids + ends])[:, 0] - draft.score).abs()
        assert apart.min() < 1e-3
        rows.add(int(apart.argmin()))
    assert rows == {0, 1}


def test_blocked_runs_are_never_completed(vocabulary: Vocabulary) -> None:
    """A model that has learned its texts by heart says them, unless they are blocked."""
    torch.manual_seed(0)
    llm = SpeechLLM(replace(TINY.llm, vocabulary=len(vocabulary), temperature=0.7), vocabulary)
    said = [vocabulary.encode(t) for t in (TEXTS[6], TEXTS[8], TEXTS[11])]
    prompt = [*prompt_of(vocabulary, slots=0), vocabulary.ids[SAY]]
    rows = [[*prompt, *s, vocabulary.ids[END]] for s in said]
    width = max(map(len, rows))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    targets = ids.clone()
    targets[ids == 0], targets[:, : len(prompt)] = -100, -100
    optimiser = torch.optim.AdamW(llm.parameters(), 0.01)
    for _ in range(60):
        found = llm.token_log_likelihood(llm.embed(ids[:, :-1]), ids[:, :-1], ids[:, 1:])
        loss = scored_nats(found, targets[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    llm.eval()

    def spoken(blocker: Blocker | None) -> list[list[int]]:
        llm.blocker = blocker
        found = []
        for seed in range(3):
            memory, first = llm.prefill(prompt)
            found += [d.ids for d in sentences_of(llm, memory, first, seed)]
        return found

    assert sum(any(ids == s[: len(ids)] for s in said) for ids in spoken(None)) >= 5
    size = 4
    texts = [normalise(vocabulary.decode(s)).split() for s in said]
    blocker = Blocker(Blocker.learn(texts, size), size, vocabulary.pieces)
    known = {tuple(w[i : i + size]) for w in texts for i in range(len(w) - size + 1)}
    for reply in spoken(blocker):
        run = normalise(vocabulary.decode(reply)).split()
        assert not {tuple(run[i : i + size]) for i in range(len(run) - size + 1)} & known


def test_blocking_holds_beyond_the_likeliest_tokens(vocabulary: Vocabulary) -> None:
    """With flat logits every word is about as likely: also those must be checked."""
    torch.manual_seed(0)
    llm = SpeechLLM(replace(TINY.llm, vocabulary=len(vocabulary), top_p=1.0), vocabulary).eval()
    for weight in llm.parameters():
        weight.data *= 0.0
    allowed = set(range(len(SPECIALS), len(SPECIALS) + 30))
    blocker = Blocker(torch.zeros(0, dtype=torch.int64), 1, vocabulary.pieces)
    blocker.completing = lambda tail, candidates: [c for c in candidates if c not in allowed]  # type: ignore[method-assign]
    llm.blocker = blocker
    for seed in range(5):
        _, _, memory, first = llm.plan(prompt_of(vocabulary, slots=0), FITTING_STYLES["calm"])
        assert all(set(d.ids) <= allowed for d in sentences_of(llm, memory, first, seed))


def test_the_sizes_come_from_the_configuration() -> None:
    model = make_llm(replace(TINY.llm, vocabulary=77))
    assert model.get_input_embeddings().weight.shape == (77, TINY.llm.width)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(model.model.layers) == TINY.llm.layers
