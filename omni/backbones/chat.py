"""The thought and the reply by a published instruct model: the grammar in plain words, its labels walked along a trie.

The model is told what was heard and how it sounded and writes five lines, `Need:` to `Reply:`. The names of the lines are
given, each label is one of those that `turns.py` lists, so that a thought is always well-formed; the reply is sampled.
Shapes: L tokens, V vocabulary.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from omni.answers import Answer, Answering, Sentence
from omni.backbones.decoding import StaticDecoder
from omni.backbones.local import pretrained
from omni.errors import ModelError
from omni.models.style import style_for
from omni.nn.sampling import nucleus
from omni.text import FIELDS, Thought
from omni.turns import Conversation, Heard, Perception, Plan, Reply, Style, fitting_styles

#: What the model is asked to do (listen, perceive, express: LPE, arXiv 2501.10937, in our own words).
INSTRUCTION = """You are Omni, a voice assistant. You are told what a person said and how the voice sounded.
First decide how to answer: does the person need empathy (seeking: wants a feeling or good news to be heard; providing: \
comforts or thanks somebody; none: facts and small talk), which support strategy fits, with which intent, and in which \
voice style. Then answer aloud in one or two short sentences, under thirty words, plain text without lists or emoji. \
Take up what was really said. Follow the voice where it says something other than the words, with tact. Give facts when \
facts are asked for and no comfort then. Never claim to be human, to feel, to remember for ever, or to do what a voice \
assistant cannot do. No therapy phrases."""
#: The lines of the thought by the fields of a plan.
LINES = {"need": "Need", "strategy": "Strategy", "intent": "Intent", "style": "Style"}
_RELATION = {"agrees": "fits the words", "adds": "adds a feeling that the words leave out"}
_LONGEST_THOUGHT_TOKENS = 80
#: A first clause of so many words may be spoken before its sentence is whole: that is when the person hears something.
_CLAUSE_WORDS = 6
_CLAUSE_END = re.compile(r"[,;:]\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


@dataclass(frozen=True)
class ChatConfig:
    """How the reply is sampled."""

    reply_tokens: int = 80
    temperature: float = 0.7
    top_p: float = 0.9
    history_turns: int = 6
    #: Decode over keys and values of a fixed size, on a GPU as a CUDA graph (`decoding.py`); None: on a GPU.
    static: bool | None = None
    #: Tokens of prompt and reply that they have room for; a longer conversation is decoded without.
    static_tokens: int = 2048


@dataclass
class _Reading:
    """What the model has read so far, and the logits [1, V] of what comes next."""

    cache: DynamicCache | StaticDecoder
    logits: Tensor
    state: Tensor | None = None  # [1, H] of the last token, where somebody asks for it


class _Spoken:
    """What was sampled of a reply: ids, their states where they are kept, the sentences that are whole, and a first clause."""

    def __init__(self, responder: ChatResponder) -> None:
        self._responder, self._told = responder, 0
        self.ids: list[int] = []
        self.states: list[Tensor] = []
        self.sentences: list[Sentence] = []

    @property
    def text(self) -> str:
        """All of it, up to the first new line."""
        return self._responder._decode(self.ids).strip().split("\n")[0].strip()

    def add(self, token: int) -> bool:
        """Whether the reply goes on: not with a token that begins a new line."""
        self.ids.append(token)
        text = self._responder._decode(self.ids)
        if "\n" in text.strip():
            return False
        done = [m.end() for m in _SENTENCE_END.finditer(text)]
        if not self._told and not done:
            clauses = [m.end() for m in _CLAUSE_END.finditer(text)]
            done = [end for end in clauses if len(text[:end].split()) >= _CLAUSE_WORDS][:1]
        if done and done[-1] > self._told and text[self._told : done[-1]].strip():
            self.sentences.append(Sentence(text[self._told : done[-1]].strip()))
            self._told = done[-1]
        return True

    def end(self) -> None:
        """What is left is the last sentence."""
        rest = self._responder._decode(self.ids)[self._told :].strip().split("\n")[0].strip()
        if rest:
            self.sentences.append(Sentence(rest))


def user_message(heard: Heard, perception: Perception) -> str:
    """What the model is told of a turn."""
    relation = _RELATION.get(perception.match, "says something other than the words")
    sounds = f"{perception.emotion} ({perception.level}, {perception.confidence:.0%} sure), which {relation}"
    return f'The person said: "{heard.text}"\nThe voice sounded {sounds}.'


def assistant_message(reply: Reply) -> str:
    """What the model wrote in an earlier turn."""
    lines = [f"{name}: {getattr(reply.plan, field)}" for field, name in LINES.items()]
    return "\n".join([*lines, f"Reply: {reply.text}"])


class ChatResponder(Answering):
    """A responder over any causal model whose tokenizer has a chat template."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ChatConfig = ChatConfig()
    ) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        ends = model.generation_config.eos_token_id if model.generation_config else None
        found = ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id]
        self.ends = {int(i) for i in found if i is not None}
        self._static: StaticDecoder | None = None
        self._free = threading.Lock()  # there is one static cache: who comes while it is in use gets one that grows

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        reply_tokens: int = 80,
        temperature: float = 0.7,
        top_p: float = 0.9,
        history_turns: int = 6,
        bits: int = 0,
    ) -> ChatResponder:
        """From a local folder that `save_pretrained` wrote or the hub's cache holds; safetensors only, no code.

        `bits`: see `local.pretrained`.
        """
        model = pretrained(AutoModelForCausalLM, folder, dtype, device, bits)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model, tokenizer, ChatConfig(reply_tokens, temperature, top_p, history_turns))

    def think(self, heard: Heard, perception: Perception, conversation: Conversation, seed: int) -> Iterator[Answer]:
        """See `Answering`."""
        begun = self._begin(heard, perception, conversation)
        try:
            plan, reading = self._plan(begun, perception)
            thought = Thought(heard.text, perception.emotion, perception.level, perception.match, plan)
            style = style_for(plan.style, perception.intensity)
            yield from self._answers(reading, seed, plan, style, thought)
        finally:
            self._end(begun)

    def _answers(self, reading: _Reading, seed: int, plan: Plan, style: Style, thought: Thought) -> Iterator[Answer]:
        """The reply as it grows."""
        for sentences in self._sentences(reading, seed, _Spoken(self)):
            whole = " ".join(s.text for s in sentences)
            yield Answer(Reply(whole, plan, style), thought, tuple(sentences))

    def _plan(self, reading: _Reading, perception: Perception) -> tuple[Plan, _Reading]:
        """Write the lines of the plan and the name of the reply's."""
        chosen: dict[str, str] = {}
        for number, (field, name) in enumerate(LINES.items()):
            reading = self._read(self._plain(("\n" if number else "") + f"{name}:"), reading)
            allowed = (
                FIELDS[field] if field != "style" else fitting_styles(perception.emotion, perception.probabilities)
            )
            chosen[field], reading = self._label(allowed, reading)
        return Plan(**chosen), self._read(self._plain("\nReply:"), reading)

    # -- reading -------------------------------------------------------------------------------------------------

    def _begin(self, heard: Heard, perception: Perception, conversation: Conversation) -> _Reading:
        """Read everything that stands before the first line of the thought."""
        return self._read(self._prompt(heard, perception, conversation))

    def _prompt(self, heard: Heard, perception: Perception, conversation: Conversation) -> list[int]:
        messages = [{"role": "system", "content": INSTRUCTION}]
        for turn in conversation.turns[-self.config.history_turns :]:
            messages.append({"role": "user", "content": user_message(turn.heard, turn.perception)})
            messages.append({"role": "assistant", "content": assistant_message(turn.reply)})
        messages.append({"role": "user", "content": user_message(heard, perception)})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._plain(str(text))

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], reading: _Reading | None = None, embeddings: Tensor | None = None) -> _Reading:
        """Read ids [L], or the embeddings [1, L, H] that stand for them."""
        cache = reading.cache if reading else self._cache(len(ids))
        if isinstance(cache, StaticDecoder):
            one = embeddings is None and len(ids) == 1 and reading is not None
            given = {"ids": ids} if embeddings is None else {"embeddings": embeddings}
            logits = cache.step(ids[0]) if one else cache.prefill(**given)  # type: ignore[arg-type]
            return _Reading(cache, logits.to("cpu", copy=True), self._state(cache))
        return self._grow(cache, ids, embeddings)

    def _grow(self, cache: DynamicCache, ids: Sequence[int], embeddings: Tensor | None) -> _Reading:
        """`_read` over a cache that grows."""
        told = {"inputs_embeds": embeddings} if embeddings is not None else {}
        if embeddings is None:
            told["input_ids"] = torch.tensor([list(ids)], device=self.model.device)
        out = self.model(**told, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return _Reading(cache, out.logits[:, -1].float().cpu())

    def _state(self, cache: StaticDecoder) -> Tensor | None:
        return None

    def _cache(self, tokens: int) -> DynamicCache | StaticDecoder:
        """What a prompt of so many tokens, and all that follows it, is read into."""
        wanted = self.model.device.type == "cuda" if self.config.static is None else self.config.static
        follow = _LONGEST_THOUGHT_TOKENS + self.config.reply_tokens
        if not wanted or tokens + follow > self.config.static_tokens or not self._free.acquire(blocking=False):
            return DynamicCache(config=self.model.config)
        if self._static is None:
            self._static = self._decoder()
        self._static.reset()
        return self._static

    def _decoder(self) -> StaticDecoder:
        return StaticDecoder(self.model, self.config.static_tokens)

    def _end(self, reading: _Reading) -> None:
        """What was read is not needed any more."""
        if isinstance(reading.cache, StaticDecoder):
            self._free.release()

    # -- thinking ------------------------------------------------------------------------------------------------

    def _label(self, allowed: Sequence[str], reading: _Reading) -> tuple[str, _Reading]:
        """Walk the trie of the allowed labels, the likeliest token at each fork, and read the label."""
        ways = {label: [*self._plain(f" {label}")] for label in allowed}
        written: list[int] = []
        while len(ways) > 1:
            nexts = sorted({ids[len(written)] for ids in ways.values() if len(ids) > len(written)})
            ended = [label for label, ids in ways.items() if len(ids) == len(written)]
            best = nexts[int(reading.logits[0, nexts].argmax())]
            line_end = self._plain("\n")[0]
            if ended and float(reading.logits[0, line_end]) > float(reading.logits[0, best]):
                return ended[0], reading
            written.append(best)
            ways = {label: ids for label, ids in ways.items() if ids[: len(written)] == written}
            reading = self._read([best], reading)
        ((label, ids),) = ways.items()
        rest = ids[len(written) :]
        return label, self._read(rest, reading) if rest else reading

    # -- answering -----------------------------------------------------------------------------------------------

    def _sentences(self, reading: _Reading, seed: int, spoken: _Spoken) -> Iterator[list[Sentence]]:
        """The reply's sentences so far, each time that one is whole."""
        told = 0
        for _ in self._sampled(reading, seed, spoken):
            if len(spoken.sentences) > told:
                told = len(spoken.sentences)
                yield spoken.sentences
        spoken.end()
        if len(spoken.sentences) > told:
            yield spoken.sentences
        elif not told:
            raise ModelError(
                f"the language model wrote no words ({self._decode(spoken.ids)!r}); it is damaged, or no instruct model"
            )

    def _sampled(self, reading: _Reading, seed: int, spoken: _Spoken) -> Iterator[None]:
        """Sample the reply into `spoken`; comes back after each token, before that token is read.

        It ends with the end mark, a new line or the last allowed token.
        """
        generator = torch.Generator().manual_seed(seed)
        empty = [*self.ends, *self._plain("\n")]
        reading.logits = reading.logits.index_fill(1, torch.tensor(empty), float("-inf"))  # something is said
        for _ in range(self.config.reply_tokens):
            token = int(nucleus(reading.logits, self.config.temperature, self.config.top_p, generator))
            if token in self.ends or not spoken.add(token):
                return
            yield
            reading = self._read([token], reading)
            if reading.state is not None:
                spoken.states.append(reading.state)

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(text).replace("\ufffd", "")
