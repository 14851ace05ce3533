"""The parts of the page that show something, as HTML made from a visit's records."""

from __future__ import annotations

from html import escape

from omni.demo import charts, words
from omni.demo.visits import Visit
from omni.errors import InputError, ModelError, OmniError
from omni.turns import Turn

_NOTHING = '<p class="nothing">{}</p>'

HEADER = """
<header class="top"><h1>Omni</h1><p>Say something. It hears what you say and how you say it.</p>
<p class="brief">Nothing is stored unless you export it. A program, no therapist:
<a href="#notice">what is kept, what this is</a></p>
</header>
"""
NOTICE = """
<aside class="notice" id="notice" aria-label="What is kept, and what this is">
<p><strong>What is kept:</strong> your voice and the replies stay in this program's memory while the page is open, and are
forgotten when you close or reload it. Nothing is stored unless you export it, and nothing is sent to other companies.</p>
<p><strong>What this is:</strong> a program that guesses at feelings from a voice and is often wrong. It is no therapist and no
doctor. If you are in danger or thinking of harming yourself, call your local emergency number or someone you trust.</p>
</aside>
"""
TALK = """
<section class="talk" aria-label="Talk">
<button type="button" id="press" class="press" aria-describedby="caption" disabled>
<svg viewBox="0 0 24 24" aria-hidden="true"><rect x="9" y="3" width="6" height="11" rx="3"/><path
d="M5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21"/></svg><span id="press-words">One moment</span></button>
<button type="button" id="hands-free" class="hands-free" role="switch" aria-checked="false" disabled><span
class="knob" aria-hidden="true"></span>Hands-free conversation</button>
<p id="caption" class="caption" role="status" aria-live="polite">Getting ready</p>
<div id="live-card"></div>
</section>
"""


def token(visit: Visit) -> str:
    """What the page's script needs to know of the visit."""
    return f'<span id="visit" data-token="{escape(visit.token)}" hidden></span>'


def card(error: Exception | None) -> str:
    """What went wrong and what to do about it; nothing if all went well."""
    if error is None:
        return ""
    titles = {InputError: "This recording cannot be heard", ModelError: "This preset cannot be loaded"}
    title = next((t for kind, t in titles.items() if isinstance(error, kind)), "That did not work")
    if isinstance(error, OmniError):
        message = str(error)
    else:
        message = "something went wrong inside the program; try again, and look at the terminal if it happens again"
    what, _, remedy = message.rpartition("; ")
    remedy = f"<p><strong>What helps:</strong> {escape(remedy)}</p>" if what else ""
    return f'<div class="error-card" role="alert"><h3>{title}</h3><p>{escape(_sentence(what or message))}</p>{remedy}</div>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sound(visit: Visit, number: int, who: str, label: str, length: int) -> str:
    plays = " autoplay" if visit.autoplay and who == "omni" and number == len(visit.talk.queries) - 1 else ""
    where = f"sound/{visit.token}/{visit.talks.index(visit.talk)}/{number}/{who}.wav?{length}"
    return f'<audio controls{plays} preload="none" aria-label="{escape(label)}" src="{where}"></audio>'


def dialogue(visit: Visit) -> str:
    """The conversation so far, and what there is of the turn under way."""
    turns, rows = visit.talk.conversation.turns, []
    for number, (turn, query) in enumerate(zip(turns, visit.talk.queries, strict=True)):
        rows.append(
            _bubble(
                "you",
                turn.heard.text or "(not understood)",
                turn.perception.emotion,
                _sound(visit, number, "you", f"What you said in turn {number + 1}", len(query.samples)),
            )
        )
        reply = turn.reply.audio
        player = _sound(visit, number, "omni", f"Reply {number + 1}", len(reply.samples)) if reply else ""
        rows.append(_bubble("omni", turn.reply.text, f"{turn.reply.style.name} voice", player))
    now = visit.progress
    if now is not None and now.turn is None and now.heard is not None and now.perception is not None:
        rows.append(_bubble("you", now.heard.text or "(not understood)", now.perception.emotion, ""))
        rows.append(_bubble("omni", now.reply.text if now.reply else "…", "thinking" if not now.reply else "", ""))
    if not rows:
        rows = [_NOTHING.format("The conversation appears here. Press the button, upload a recording or try a sample.")]
        return f'<section class="dialogue empty" aria-label="Conversation">{"".join(rows)}</section>'
    return f'<section class="dialogue" aria-label="Conversation"><ol>{"".join(rows)}</ol></section>'


def _bubble(who: str, text: str, note: str, player: str) -> str:
    name = "You" if who == "you" else "Omni"
    note = f'<span class="note">{escape(note)}</span>' if note else ""
    return f'<li class="bubble {who}"><p class="who">{name}{note}</p><p class="said">{escape(text)}</p>{player}</li>'


def tone(visit: Visit) -> str:
    """The emotions heard last as bars, and the conversation's path over the plane of valence and arousal."""
    seen = [turn.perception for turn in visit.talk.conversation.turns]
    now = visit.progress
    if now is not None and now.turn is None and now.perception is not None:
        seen.append(now.perception)
    shown = charts.bars(seen[-1]) if seen else _NOTHING.format("No voice heard yet.")
    return _section("How it sounded", f'<div class="pair">{shown}{charts.plane(seen)}</div>', "tone")


def thought(visit: Visit) -> str:
    """The last thought in plain words."""
    now = visit.progress
    if now is None or now.heard is None or now.perception is None:
        last = visit.last
        if last is None:
            return _section("Why this answer", _NOTHING.format("The thought behind a reply is told here."), "thought")
        rows = _thought_rows(last)
    else:
        rows = [("Heard", words.heard(now.heard)), ("Perceived", words.perceived(now.perception))]
        if now.reply is not None:
            rows.append(("Because", words.why(now.reply.plan, now.reply.style)))
    inside = "".join(f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in rows)
    return _section("Why this answer", f"<dl>{inside}</dl>", "thought")


def _thought_rows(turn: Turn) -> list[tuple[str, str]]:
    return [
        ("Heard", words.heard(turn.heard)),
        ("Perceived", words.perceived(turn.perception)),
        ("Because", words.why(turn.reply.plan, turn.reply.style)),
    ]


def sounds(visit: Visit) -> str:
    """Waveform and pitch of the last query and reply, and the time that each part took."""
    last = visit.last
    if last is None:
        return _section("Sound and time", _NOTHING.format("Waveform, pitch and timing appear here."), "sounds")
    inside = f"<h4>You</h4>{charts.sound(visit.talk.queries[-1], 'you')}"
    if last.reply.audio is not None:
        inside += f"<h4>Omni</h4>{charts.sound(last.reply.audio, 'the reply')}"
    inside += '<p class="legend" aria-hidden="true"><i class="wave"></i>level<i class="pitch"></i>pitch</p>'
    return _section("Sound and time", inside + charts.timings(last.timings_ms), "sounds")


def export(visit: Visit) -> str:
    """The link that makes the export, where there is something to export."""
    if not visit.talk.conversation.turns:
        return '<span class="export off" aria-disabled="true">Export: nothing said yet</span>'
    where = f"export/{visit.token}/{visit.talks.index(visit.talk)}.zip"
    return f'<a class="export" href="{where}" download>Export sound, JSON and transcript</a>'


def again(visit: Visit) -> str:
    """The player of the reply that was spoken again."""
    if visit.again is None:
        return ""
    where = f"sound/{visit.token}/again.wav?{visit.again_count}"
    return f'<audio class="again" controls autoplay aria-label="The reply, spoken again" src="{where}"></audio>'


def _section(title: str, inside: str, kind: str) -> str:
    return f'<section class="panel {kind}" aria-label="{title}"><h2>{title}</h2>{inside}</section>'
