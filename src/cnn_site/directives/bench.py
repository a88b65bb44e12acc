"""What techniques are worth on the bench: of one page, or of all side by side."""

from typing import Any

from cnn_site import CATEGORIES, pages
from cnn_site.pages import SiteError, Technique

from .base import Page, fill
from .numbers import hardware


def bench(page: Page, arguments: list[str], settings: Any) -> str:
    """The arms of this page's record, or of the pages of a category, of those named, or of `all`."""
    if not arguments:
        rows = _arms(page.technique)
        if not rows:
            raise SiteError(
                f"docs/evidence/{page.technique.slug}.json has no result of the bench; "
                "make it: pytest --update-evidence -m record, of its proof"
            )
        return fill("bench", rows=rows, alone=True, **_texts(rows, page.technique))
    written = [
        t
        for t in pages.techniques()
        if t.facts and {"all", t.category, t.slug} & set(arguments)
    ]
    known = {"all", *CATEGORIES, *(t.slug for t in written)}
    if unknown := [a for a in arguments if a not in known]:
        raise SiteError(
            f"unknown {unknown[0]!r}; expected all, a written page as training/mixup, "
            f"or one of {', '.join(CATEGORIES)}"
        )
    rows = [row for t in written for row in _arms(t)]
    if not rows:
        raise SiteError(f"no page of {' '.join(arguments)} has a result of the bench")
    return fill("bench", rows=rows, alone=False, **_texts(rows, rows[0]["t"]))


def _arms(t: Technique) -> list[dict[str, Any]]:
    measured = t.record.get("measured", {})
    result = measured.get("bench", {}).get("result", {})
    times = measured.get("time", {}).get("result", {})
    costs = t.record.get("computed", {}).get("bench", {})
    rows = []
    for key, pair in result.get("paired", {}).items():
        row = {
            "t": t,
            "name": pair["name"],
            "handicap": pair["handicap"],
            "diverged": pair.get("diverged"),
            "seeds": result["seeds"],
            "detectable": points(result["detectable"][pair["handicap"]], sign=False),
            "baseline": percent(
                result["arms"][f"baseline, {pair['handicap']}"]["accuracy"]
            ),
            "cost": costs.get(key),
            "time": times.get(key),
        }
        if not pair.get("diverged"):
            row |= {
                "accuracy": percent(result["arms"][key]["accuracy"]),
                "difference": points(pair["accuracy"]["difference"]),
                "interval": span(pair["accuracy"]),
                "verdict": pair["accuracy"]["verdict"],
                "shifted": points(pair["shifted"]["difference"]),
                "shifted_interval": span(pair["shifted"]),
            }
        rows.append(row)
    return rows


def _texts(rows: list[dict[str, Any]], t: Technique) -> dict[str, Any]:
    """What stands around the table: with what it was made, and how much chance plays."""
    clear = [r for r in rows if r.get("verdict", "").startswith(("higher", "lower"))]
    environments = [r["t"].record["measured"]["bench"]["environment"] for r in rows]
    return {
        "t": t,
        "timed": any(r["time"] for r in rows),
        "costly": any(  # a schedule costs neither: no columns of zeros
            r["cost"] and (r["cost"]["more_params"] or r["cost"]["more_saved_bytes"])
            for r in rows
        ),
        "clear": len(clear),
        "by_chance": f"{0.05 * len(rows):.1f}",
        "hardware": list(dict.fromkeys(hardware(e) for e in environments)),
        "handicaps": list(dict.fromkeys((r["handicap"], r["detectable"], r["baseline"], r["seeds"]) for r in rows)),
    }  # fmt: skip


def percent(interval: dict[str, Any]) -> str:
    half = 100 * (interval["high"] - interval["low"]) / 2
    return f"{100 * interval['mean']:.2f} ± {half:.2f}"


def points(value: float, sign: bool = True) -> str:
    text = f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"
    return text.replace("-", "−")


def span(pair: dict[str, Any]) -> str:
    return f"{points(pair['low'])} to {points(pair['high'])}"
