"""What builds on what, as arcs beside a list: it stays readable from ten names to a hundred, and on a phone.

The names are HTML (a link inside inline SVG stops instant navigation); the drawing has one row of 24 units for each.
"""

from collections.abc import Mapping, Sequence

ROW, WIDTH = 24, 96


def sequence(builds_on: Mapping[str, Sequence[str]]) -> list[str]:
    """Every name after those it builds on, else in the order given; ValueError names a circle."""
    order: list[str] = []
    waiting = list(builds_on)
    while waiting:
        ready = next(
            (
                n
                for n in waiting
                if all(b in order or b not in builds_on for b in builds_on[n])
            ),
            None,
        )
        if ready is None:
            raise ValueError(
                f"these build on one another in a circle: {', '.join(waiting)}"
            )
        waiting.remove(ready)
        order.append(ready)
    return order


def svg(
    order: Sequence[str],
    builds_on: Mapping[str, Sequence[str]],
    planned: Sequence[str] = (),
) -> str:
    """A dot for each name in its row, and an arc from what it builds on."""
    place = {name: ROW * (k + 0.5) for k, name in enumerate(order)}
    x = WIDTH - 8
    lines = []
    for name in order:
        for before in builds_on.get(name, ()):
            if before in place:
                a, b = place[before], place[name]
                reach = x - min(84, 12 + 10 * (abs(b - a) / ROW) ** 0.75)
                lines.append(
                    f'<path d="M{x} {a:g}C{reach:.1f} {a:g} {reach:.1f} {b:g} {x} {b:g}"/>'
                )
    dots = [
        f'<circle{" class=" + chr(34) + "plan" + chr(34) if n in planned else ""} cx="{x}" cy="{y:g}" r="4"/>'
        for n, y in place.items()
    ]
    height = ROW * len(order)
    return (
        f'<svg data-search-exclude="" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" aria-hidden="true">'
        f"{''.join(lines)}{''.join(dots)}</svg>"
    )
