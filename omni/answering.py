"""From what was heard and perceived to a reply in words: thought, then sentence after sentence.

Candidates for a sentence are sampled together and ranked by likelihood plus how much the transcript raises it (maximum
mutual information, Li et al. 2016, arXiv 1510.03055): a sentence that would follow anything ranks low. A sentence can be
spoken while the next one is still being thought of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omni.answers import Answer, Answering, Sentence
from omni.models.adapter import EmotionAdapter
from omni.models.exemplars import Exemplars
from omni.models.memory import Memory
from omni.models.speech_llm import Draft, SpeechLLM
from omni.models.style import style_for
from omni.phones import dictionary, normalise
from omni.text import END, Thought, Vocabulary
from omni.turns import EMOTIONS, Conversation, Heard, Perception, Plan, Reply, Turn, fitting_styles

#: What the transcript's raising a sentence's likelihood counts beside that likelihood: in the first sentence, in later ones
#: (a second sentence is more easily one that would follow anything).
RELEVANCE = (0.4, 0.8)
LONGEST_REPLY_SENTENCES = 2


@dataclass
class _Said:
    """What was said so far of one reply."""

    ids: list[int] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)

    def add(self, draft: Draft, vocabulary: Vocabulary) -> None:
        self.ids += draft.ids
        text = vocabulary.spell(vocabulary.decode(draft.ids))
        self.sentences.append(Sentence(text, draft.states, tuple(vocabulary.word_starts(draft.ids))))


class Responder(Answering):
    """Wraps the language model: builds the context, plans, samples, chooses."""

    def __init__(self, llm: SpeechLLM, adapter: EmotionAdapter, exemplars: Exemplars | None = None) -> None:
        """`exemplars` must be given if the language model was trained to read some (`LlmConfig.exemplars`)."""
        self.llm, self.adapter, self.vocabulary = llm.eval(), adapter.eval(), llm.vocabulary
        self.exemplars = exemplars

    def think(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int) -> Iterator[Answer]:
        """See `Answering`."""
        history, sound = self._history(conversation)
        query = self._prompt(heard, perception)
        embeddings = torch.cat([*sound, self._sound(perception)], dim=1)
        styles = fitting_styles(perception.emotion, perception.probabilities)
        first, *others = self._shown(heard, perception)
        plan, written, memory, following = self.llm.plan(history + first + query, styles, embeddings)
        reads = [self.llm.prefill(history + other + query + written, embeddings) for other in others]
        memory = Memory.joined([memory, *(m for m, _ in reads)])
        following = torch.cat([following, *(f for _, f in reads)])
        unheard = self.llm.prefill(self._prompt(Heard(""), perception) + written, self._sound(perception))
        thought = Thought(heard.text, perception.emotion, perception.level, perception.match, plan)
        generator, said, done = torch.Generator().manual_seed(seed), _Said(), False
        while not done:
            drafts = self.llm.sentences(memory, following, generator, said.ids)
            draft = self._choose(drafts, heard, (memory, following), unheard, RELEVANCE[min(len(said.sentences), 1)])
            said.add(draft, self.vocabulary)
            done = draft.finished or len(said.ids) >= self.llm.config.reply_tokens
            if not done:
                memory, following = self.llm.prefill(draft.ids, memory=memory)
                unheard = self.llm.prefill(draft.ids, memory=unheard[0])
                done = self._ends(following, len(said.sentences))
            yield self._answer(said, plan, perception, thought)

    def _ends(self, following: Tensor, count: int) -> bool:
        """Whether the reply is over: the end mark is likelier than not, or there are as many sentences as allowed."""
        return count >= LONGEST_REPLY_SENTENCES or float(following[:, self.llm.marks[END]].exp().mean()) > 0.5

    def _answer(self, said: _Said, plan: Plan, perception: Perception, thought: Thought) -> Answer:
        text = self.vocabulary.spell(self.vocabulary.decode(said.ids))
        reply = Reply(text, plan, style_for(plan.style, perception.intensity))
        return Answer(reply, thought, tuple(said.sentences))

    def _prompt(self, heard: Heard, perception: Perception) -> list[int]:
        match = perception.match if self.llm.config.reads_match else "agrees"
        perceived = self.vocabulary.perceived(perception.emotion, perception.level, match)
        return self.vocabulary.prompt(heard.text, sound_slots=1) + perceived

    def _shown(self, heard: Heard, perception: Perception) -> list[list[int]]:
        """What the language model may read before the query: ids of exemplars, the nearest first."""
        count, tried = self.llm.config.exemplars, self.llm.config.exemplars_tried
        if self.exemplars is None or not count:
            return [[]]
        posterior = [perception.probabilities.get(e, 0.0) for e in EMOTIONS]
        query = self.vocabulary.encode(normalise(heard.text))
        found = self.exemplars.nearest(query, posterior, count * tried)
        groups = [found[i : i + count] for i in range(0, len(found), count)]
        return [self.exemplars.shown(query, group, self.vocabulary) for group in groups]

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

    def _choose(
        self,
        drafts: list[Draft],
        heard: Heard,
        given: tuple[Memory, Tensor],
        unheard: tuple[Memory, Tensor],
        relevance: float,
    ) -> Draft:
        """The draft with the best likelihood plus `relevance` times what transcript and exemplars add to it.

        given: what was read, a row for each exemplar, and what follows. A draft's likelihood is half that after its own
        exemplar and half the mean after all of them: what fits one exemplar alone (a name, a number) ranks lower.
        unheard: the same without exemplars and transcript.
        """
        drafts = [d for d in drafts if d.ids] or drafts
        drafts = [d for d in drafts if self._are_words(d.ids, heard)] or drafts
        if len(drafts) == 1:
            return drafts[0]
        targets = [d.ids + [self.llm.marks[END]] * d.finished for d in drafts]
        every = self.llm.log_likelihood(*given, targets).mean(0)
        without = self.llm.log_likelihood(*unheard, targets)[0]
        found = (torch.tensor([d.score for d in drafts]) + every) / 2
        scores = found + relevance * (found - without) - torch.tensor([d.lost for d in drafts])
        return drafts[int(scores.argmax())]

    def _are_words(self, ids: list[int], heard: Heard) -> bool:
        """Whether all that would be said are words: in the dictionary, or heard just now."""
        said = set(normalise(self.vocabulary.spell(self.vocabulary.decode(ids))).split())
        known = set(normalise(heard.text).split())
        return all(word.removesuffix("'s") in dictionary() or word in dictionary() for word in said - known)
