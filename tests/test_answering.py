"""What makes the responder choose one sentence rather than another, on weights drawn at random."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omni.answering import Responder
from omni.models.memory import Memory
from omni.models.speech_llm import Draft
from omni.turns import Heard


@pytest.fixture
def responder(assistant: Any) -> Responder:
    return assistant.parts.responder


def draft(responder: Responder, text: str, score: float = -1.0, lost: float = 0.0) -> Draft:
    ids = responder.vocabulary.encode(text)
    return Draft(ids, score, torch.zeros(len(ids), responder.llm.config.width), False, lost)


def scored(found: list[list[float]]) -> object:
    """Stands in for `log_likelihood`: for given memories [rows, drafts], for the unheard one zeros."""

    def log_likelihood(memory: Memory | None, first: torch.Tensor, targets: list[list[int]]) -> torch.Tensor:
        rows = torch.tensor(found) if memory is not None else torch.full((1, len(found[0])), -1.0)
        return rows[:, : len(targets)]

    return log_likelihood


def chosen(
    responder: Responder, drafts: list[Draft], likelihood: list[list[float]], heard: str = "", w: float = 0.5
) -> int:
    memory, _ = responder.llm.prefill(responder.vocabulary.encode("hello."))
    real, responder.llm.log_likelihood = responder.llm.log_likelihood, scored(likelihood)  # type: ignore[method-assign,assignment]
    try:
        given, unheard = (memory, torch.zeros(1)), (None, torch.zeros(1))
        return drafts.index(responder._choose(drafts, Heard(heard), given, unheard, w))  # type: ignore[arg-type]
    finally:
        responder.llm.log_likelihood = real  # type: ignore[method-assign]


def test_what_fits_one_exemplar_alone_ranks_lower(responder: Responder) -> None:
    drafts = [draft(responder, "we went home.", -0.5), draft(responder, "that is good.", -0.7)]
    assert chosen(responder, drafts, [[-0.5, -0.7], [-0.5, -0.7]]) == 0
    assert chosen(responder, drafts, [[-0.5, -0.7], [-4.0, -0.7]]) == 1


def test_going_astray_costs(responder: Responder) -> None:
    drafts = [draft(responder, "we went home.", -0.5, lost=1.0), draft(responder, "that is good.", -0.7)]
    assert chosen(responder, drafts, [[-0.5, -0.7]]) == 1


def test_a_draft_with_what_is_no_word_is_left_unless_it_was_heard(responder: Responder) -> None:
    drafts = [draft(responder, "we qzx home.", -0.1), draft(responder, "that is good.", -0.7)]
    assert chosen(responder, drafts, [[-0.1, -0.7]]) == 1 or "qzx" not in responder.vocabulary.decode(drafts[0].ids)
    assert chosen(responder, drafts, [[-0.1, -0.7]], heard="the qzx") == 0
    assert chosen(responder, drafts[:1], [[-0.1]]) == 0
