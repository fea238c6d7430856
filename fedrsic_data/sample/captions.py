"""Sentences that describe a scene."""

from __future__ import annotations

from fedrsic_data.sample.sensors import Scene, spec

_TEMPLATES = (
    "a {sensor} of {a_name}{details}.",
    "{a_name}{details}, in a {sensor}.",
    "{name}{details}: a {sensor} seen from above.",
    "this {sensor} shows {a_name}{details}.",
)
_MASS = ("agricultural", "chaparral", "circular_farmland", "buildings")
_NAMES = {"agricultural": "agricultural land"}
_MOST = 3  # attributes a caption gives


def caption(scene: Scene, variant: int = 0) -> str:
    """One sentence about a scene: its class, its sensor and up to three of its attributes.

    Args:
        scene: What `render` returned.
        variant: Which of the sentence forms; any integer, they repeat.

    Returns:
        Lower-case English, the class name with spaces for underscores.
    """
    name = scene.class_name.replace("_", " ")
    noun = _NAMES.get(scene.class_name, name)
    article = "" if scene.class_name in _MASS else "an " if noun[0] in "aeiou" else "a "
    shown = scene.attributes[:_MOST]
    return _TEMPLATES[variant % len(_TEMPLATES)].format(
        sensor=spec(scene.sensor).words,
        name=noun,
        a_name=article + noun,
        details=f" ({', '.join(shown)})" if shown else "",
    )
