"""From what was heard and perceived to a reply in words: thought, candidates, choice.

Candidates are sampled together and ranked by likelihood plus how much the transcript raises it (maximum mutual
information, Li et al. 2016, arXiv 1510.03055): a reply that would follow anything ranks low.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni.models.adapter import EmotionAdapter
from omni.models.speech_llm import Draft, SpeechLLM
from omni.models.style import style_for
from omni.text import Thought
from omni.turns import EMOTIONS, Conversation, Heard, Perception, Plan, Reply, Turn

RELEVANCE_WEIGHT = 1.0
#: What is said when the words could not be made out; one is drawn by the seed. Never sent through the model.
UNCLEAR = {
    "quiet": (
        "I didn't catch the words. Could you say that again?",
        "The words were not clear to me. Would you repeat them?",
    ),
    "upset": (
        "I couldn't make out the words, but your voice sounded troubled. Could you say it once more?",
        "Something in your voice sounded heavy, and I missed the words. Please tell me again.",
    ),
}


@dataclass(frozen=True)
class Answer:
    """A reply without sound, its thought, and the language model's states [tokens, D] with its tokens' words."""

    reply: Reply
    thought: Thought
    states: Tensor | None = None
    ids: tuple[int, ...] = ()


class Responder:
    """Wraps the language model: builds the context, plans, samples, chooses."""

    def __init__(self, llm: SpeechLLM, adapter: EmotionAdapter) -> None:
        self.llm, self.adapter, self.vocabulary = llm.eval(), adapter.eval(), llm.vocabulary

    def answer(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int = 0) -> Answer:
        """Think and choose a reply. The same arguments give the same answer."""
        if not heard.understood:
            return self._unclear(heard, perception, seed)
        history, sound = self._history(conversation)
        prompt = history + self._prompt(heard, perception)
        embeddings = torch.cat([*sound, self._sound(perception)], dim=1)
        plan, written, cache, first = self.llm.plan(prompt, perception.emotion, embeddings)
        drafts = self.llm.answer(cache, first, seed)
        draft = self._choose(drafts, perception, written)
        text = self.vocabulary.spell(self.vocabulary.decode(draft.ids))
        thought = Thought(heard.text, perception.emotion, perception.level, perception.match, plan)
        reply = Reply(text, plan, style_for(plan.style, perception.intensity))
        return Answer(reply, thought, draft.states, tuple(draft.ids))

    def _prompt(self, heard: Heard, perception: Perception) -> list[int]:
        match = perception.match if self.llm.config.reads_match else "agrees"
        perceived = self.vocabulary.perceived(perception.emotion, perception.level, match)
        return self.vocabulary.prompt(heard.text, sound_slots=1) + perceived

    @torch.inference_mode()
    def _sound(self, perception: Perception) -> Tensor:
        """The emotion slot [1, 1, D]."""
        posterior = torch.tensor([[perception.probabilities.get(e, 0.0) for e in EMOTIONS]])
        vector = None if perception.vector is None else torch.from_numpy(perception.vector)[None]
        return self.adapter(posterior, vector, self.llm.label_embeddings("emotion"))

    def _past(self, turn: Turn) -> Thought:
        seen = turn.perception
        match = seen.match if self.llm.config.reads_match else "agrees"
        return Thought(turn.heard.text, seen.emotion, seen.level, match, turn.reply.plan)

    def _history(self, conversation: Conversation) -> tuple[list[int], list[Tensor]]:
        """Ids and sound embeddings of as many recent turns as fit half of the context."""
        ids: list[int] = []
        sound: list[Tensor] = []
        room = self.llm.config.context_tokens // 2
        for turn in reversed(conversation.turns[-self.llm.config.history_turns :]):
            past = self.vocabulary.turn(self._past(turn), turn.reply.text, sound_slots=1)
            if len(past) + len(ids) > room:
                break
            ids, sound = past + ids, [self._sound(turn.perception), *sound]
        return ids, sound

    @torch.inference_mode()
    def _choose(self, drafts: list[Draft], perception: Perception, written: list[int]) -> Draft:
        """The draft with the best likelihood plus mutual information with the transcript."""
        finished = [d for d in drafts if d.finished and len(d.ids) >= 4] or drafts
        if len(finished) == 1:
            return finished[0]
        unheard = self._prompt(Heard(""), perception) + written
        sound = self._sound(perception).expand(len(finished), -1, -1)
        without = self.llm.log_likelihood(unheard, [d.ids for d in finished], sound)
        scores = [d.score + RELEVANCE_WEIGHT * (d.score - float(w)) for d, w in zip(finished, without, strict=True)]
        return finished[max(range(len(finished)), key=scores.__getitem__)]

    def _unclear(self, heard: Heard, perception: Perception, seed: int) -> Answer:
        upset = perception.emotion in ("sad", "angry", "fearful", "disgusted") and perception.confidence > 0.5
        lines = UNCLEAR["upset" if upset else "quiet"]
        text = lines[seed % len(lines)]
        plan = Plan("none", "question", "questioning", "warm" if not upset else "comforting")
        if perception.emotion in ("angry", "disgusted"):
            plan = replace(plan, style="calm")
        thought = Thought(heard.text, perception.emotion, perception.level, perception.match, plan)
        return Answer(Reply(text, plan, style_for(plan.style, perception.intensity)), thought)


def seed_of(text: str) -> int:
    """A seed that is a function of a text (a query's id, a transcript)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
