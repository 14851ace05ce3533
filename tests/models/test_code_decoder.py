"""The speech decoder: what it may see, streaming as in training, the end, gate and AdaLN, what a batch changes."""

from __future__ import annotations

import doctest

import pytest
import torch

from omni.models import code_decoder
from omni.models.code_decoder import CodeDecoder, CodeDecoderConfig, schedule

TINY = CodeDecoderConfig(
    llm_width=12, emotion=6, width=32, layers=2, heads=2, feedforward=48, depth_width=16, depth_layers=2, depth_heads=2,
    depth_feedforward=24, codebooks=3, codes=10, read=2, write=3,
)  # fmt: skip


@pytest.fixture
def decoder() -> CodeDecoder:
    torch.manual_seed(3)
    made = CodeDecoder(TINY).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3.0)  # far from uniform
    return made


def text(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, length, 12, generator=generator),
        torch.randn(1, length, 12, generator=generator),
        torch.randn(1, 6, generator=generator),
    )


def test_text_and_frames_take_turns() -> None:
    assert doctest.testmod(code_decoder).failed == 0
    for tokens in range(1, 9):
        for frames in range(1, 15):
            order = schedule(tokens, frames, 2, 3)
            assert sorted(order) == list(range(tokens + frames))
            assert [p for p in order if p < tokens] == list(range(tokens))
            assert [p for p in order if p >= tokens] == list(range(tokens, tokens + frames))


@pytest.mark.parametrize("pieces", [(7,), (1, 1, 1, 1, 1, 1, 1), (3, 4), (6, 1)])
def test_a_stream_writes_what_training_would_have_it_write(decoder: CodeDecoder, pieces: tuple[int, ...]) -> None:
    """Greedily, so that each code must be the likeliest one of the whole sequence read at once."""
    embeddings, states, emotion = text(sum(pieces))
    stream = decoder.stream(emotion, temperature=0.0)
    frames, at = [], 0
    for count in pieces:
        frames += list(stream.push(embeddings[:, at : at + count], states[:, at : at + count]))
        at += count
    early = len(frames)
    frames += list(stream.finish(11))
    assert early == 9 or stream.done  # three turns of two tokens and three frames
    codes = torch.tensor(frames).T[None]
    order = torch.tensor([schedule(7, len(frames) + 1, 2, 3)])
    first, others = decoder(embeddings, states, emotion, codes, order)
    assert first[0, :-1].argmax(-1).tolist() == codes[0, 0].tolist()
    assert others[0].argmax(-1).T.tolist() == codes[0, 1:].tolist()
    if stream.done:
        assert int(first[0, -1].argmax()) == decoder.end


def test_a_frame_does_not_see_text_that_comes_later(decoder: CodeDecoder) -> None:
    embeddings, states, emotion = text(7)
    codes = torch.randint(0, 10, (1, 3, 12))
    order = torch.tensor([schedule(7, 13, 2, 3)])
    before = decoder(embeddings, states, emotion, codes, order)[0]
    embeddings[:, 4:] += 1.0
    after = decoder(embeddings, states, emotion, codes, order)[0]
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-5)  # two turns: four tokens, six frames
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-2)


def test_a_batch_of_unequal_rows_has_the_loss_of_its_rows(decoder: CodeDecoder) -> None:
    rows = [(5, 8, 1), (3, 4, 2), (7, 2, 3)]
    most = max(t for t, _, _ in rows), max(f for _, f, _ in rows)
    batch = [torch.zeros(3, most[0], 12), torch.zeros(3, most[0], 12), torch.zeros(3, 6)]
    codes = torch.zeros(3, 3, most[1], dtype=torch.long)
    firsts, others, ends = 0.0, 0.0, 0
    for row, (tokens, frames, seed) in enumerate(rows):
        embeddings, states, emotion = text(tokens, seed)
        batch[0][row, :tokens], batch[1][row, :tokens], batch[2][row] = embeddings[0], states[0], emotion[0]
        codes[row, :, :frames] = torch.randint(0, 10, (3, frames), generator=torch.Generator().manual_seed(seed))
        own = codes[row : row + 1, :, :frames]
        _, parts = decoder.loss(embeddings, states, emotion, own, torch.tensor([tokens]), torch.tensor([frames]))
        firsts, others, ends = firsts + parts["first"] * (frames + 1), others + parts["others"] * frames, ends + frames
    counts = torch.tensor([t for t, _, _ in rows]), torch.tensor([f for _, f, _ in rows])
    loss, parts = decoder.loss(batch[0], batch[1], batch[2], codes, *counts)
    assert parts["first"] == pytest.approx(firsts / (ends + 3), rel=1e-4)
    assert parts["others"] == pytest.approx(others / ends, rel=1e-4)
    assert float(loss) == pytest.approx(parts["first"] / 3 + parts["others"] * 2 / 3, rel=1e-4)


def test_emotion_changes_nothing_at_first_and_can_be_learned() -> None:
    torch.manual_seed(0)
    decoder = CodeDecoder(TINY)
    embeddings, states, emotion = text(4)
    assert torch.equal(decoder.text(embeddings, states, emotion), decoder.text(embeddings, states, emotion + 1))
    codes, counts = torch.randint(0, 10, (1, 3, 5)), (torch.tensor([4]), torch.tensor([5]))
    optimiser = torch.optim.AdamW(decoder.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss, _ = decoder.loss(embeddings, states, emotion, codes, *counts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
    assert decoder.adapt.modulation.weight.abs().sum() > 0
    decoder.eval()
    stream = decoder.stream(emotion, temperature=0.0)
    written = list(stream.push(embeddings, states)) + list(stream.finish(20))
    assert stream.done
    assert written == codes[0].T.tolist()


def test_the_seed_decides_what_is_drawn(decoder: CodeDecoder) -> None:
    with torch.no_grad():
        decoder.head.bias[decoder.end] -= 99.0

    def written(seed: int) -> list[list[int]]:
        embeddings, states, emotion = text(6)
        stream = decoder.stream(emotion, seed=seed, temperature=1.0, top_p=1.0)
        return list(stream.push(embeddings, states)) + list(stream.finish(8))

    assert written(1) == written(1)
    assert len({str(written(s)) for s in range(4)}) > 1
