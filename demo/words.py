"""The thought of a turn in plain words: what was heard, what was perceived, why this answer."""

from __future__ import annotations

from omni.turns import Heard, Perception, Plan, Style

_MANNER = {"mild": "a little ", "moderate": "", "strong": "very "}
_RELATION = {
    "agrees": "Voice and words say the same.",
    "adds": "The words alone are plain; the feeling is in the voice.",
    "contradicts": "The voice says something other than the words.",
}
_NEED = {
    "none": "Nothing in it asks for comfort",
    "seeking": "It sounds like a wish to be heard",
    "providing": "It is kindness towards someone",
}
_STRATEGY = {
    "question": "so the reply asks",
    "restatement": "so the reply says it back in other words",
    "reflection": "so the reply names the feeling",
    "affirmation": "so the reply stands by you",
    "suggestion": "so the reply offers something to try",
    "information": "so the reply tells what is known",
    "other": "so the reply simply answers",
}
_INTENT = {
    "agreeing": "agreeing",
    "acknowledging": "showing that it was heard",
    "encouraging": "encouraging",
    "consoling": "consoling",
    "sympathizing": "feeling with you",
    "suggesting": "suggesting",
    "questioning": "wanting to know more",
    "wishing": "wishing you well",
    "neutral": "without colouring it",
}


def heard(what: Heard) -> str:
    """What was understood, and how sure that is."""
    if not what.understood:
        return f"The words were not clear{f' (perhaps “{what.text}”)' if what.text else ''}, so it asks again."
    sure = "" if what.confidence >= 0.7 else ", though not all of it was clear"
    return f"“{what.text}”{sure}"


def perceived(what: Perception) -> str:
    """How it was said, and how that stands to the words."""
    doubt = "sounds" if what.confidence >= 0.6 else "may sound"
    return (
        f"The voice {doubt} {_MANNER[what.level]}{what.emotion} ({what.confidence:.0%} sure). {_RELATION[what.match]}"
    )


def why(plan: Plan, style: Style) -> str:
    """Why this answer, and in which voice."""
    return f"{_NEED[plan.need]}, {_STRATEGY[plan.strategy]}, {_INTENT[plan.intent]}, in a {style.name} voice."
