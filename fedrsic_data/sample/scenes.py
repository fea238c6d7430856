"""Scene classes: their table, `render`, and sentences that describe a scene."""

from __future__ import annotations

from zlib import crc32

from fedrsic_data.errors import UsageError
from fedrsic_data.sample import built, nature, sensors, transport
from fedrsic_data.sample.paint import painters
from fedrsic_data.sample.sensors import Scene

_HIGH = 1.35  # an extent from which a picture counts as seen from high above
_HAZY = 0.16
_TEMPLATES = (
    "a {sensor} of {a_name}{details}.",
    "{a_name}{details}, in a {sensor}.",
    "{name}{details}: a {sensor} seen from above.",
    "this {sensor} shows {a_name}{details}.",
)
_MASS = ("agricultural", "chaparral", "circular_farmland", "buildings")
_NAMES = {"agricultural": "agricultural land"}
_MOST = 3  # attributes a caption gives

_PAINTERS = painters(vars(built)) | painters(vars(nature)) | painters(vars(transport))
CLASSES: tuple[str, ...] = tuple(sorted(_PAINTERS))


def render(class_name: str, sensor: str, *, seed: int, index: int, size: int = 64) -> Scene:
    """Render one picture; the same arguments always give the same bytes.

    Args:
        class_name: One of `CLASSES`.
        sensor: One of `SENSORS`.
        seed: Non-negative; another seed gives another collection.
        index: Non-negative; which picture of the class. Pictures do not depend on one another.
        size: Width and height in pixels, 32..512; the scene stays the same, in more detail.

    Returns:
        The picture and what is true of it.

    Raises:
        UsageError: An argument is unknown or out of range.
    """
    paint = sensors.named("class_name", class_name, _PAINTERS)
    how = sensors.spec(sensor)
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise UsageError(f"{name} {value} is negative; give 0 or more")
    canvas = sensors.blank(size, how, [seed, crc32(sensor.encode()), crc32(class_name.encode()), index])
    paint(canvas)
    pixels, haze = sensors.develop(canvas, how)
    if canvas.extent >= _HIGH:
        canvas.note("seen from high above")
    if haze >= _HAZY:
        canvas.note("in haze")
    return Scene(pixels, class_name, sensor, tuple(canvas.notes))


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
        sensor=sensors.spec(scene.sensor).words,
        name=noun,
        a_name=article + noun,
        details=f" ({', '.join(shown)})" if shown else "",
    )
