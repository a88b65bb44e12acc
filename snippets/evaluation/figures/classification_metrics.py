"""The confusion matrix of the recorded run: rows are true digits, columns predicted ones, counts of five seeds."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from cnn_site.figures.plots import SERIES, STYLE, plot_svg

RECORD = (
    Path(__file__).parents[3]
    / "docs"
    / "evidence"
    / "evaluation"
    / "classification-metrics.json"
)
matrix = json.loads(RECORD.read_text())["measured"]["digits"]["result"]["arms"]["rare"][
    "matrix"
]
classes = range(len(matrix))
true = [sum(row) for row in matrix]
predicted = [sum(row[k] for row in matrix) for k in classes]
hits = [matrix[k][k] for k in classes]


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}"


with plt.rc_context(
    STYLE
    | {"axes.grid": False, "font.size": 11, "figure.figsize": (356 / 72, 372 / 72)}
):
    fig, ax = plt.subplots()
    for row in classes:
        for column in classes:
            count = matrix[row][column]
            role = "conv" if row == column else "loss"
            share = count / true[row]
            if count:
                ax.add_patch(
                    Rectangle(
                        (column, row),
                        1,
                        1,
                        facecolor=SERIES[role],
                        alpha=0.12 + 0.4 * share,
                        lw=0,
                    )
                )
                ax.text(column + 0.5, row + 0.5, count, ha="center", va="center")
        ax.text(
            10.85,
            row + 0.5,
            percent(hits[row], true[row]),
            ha="center",
            va="center",
            weight="bold",
        )
        ax.text(
            row + 0.5,
            10.75,
            percent(hits[row], predicted[row]),
            ha="center",
            va="center",
            weight="bold",
        )
    ax.text(10.85, -0.35, "recall\n%", ha="center", va="bottom")
    ax.text(-0.35, 10.75, "precision\n%", ha="right", va="center")
    ax.add_patch(
        Rectangle((0, 0), 10, 10, fill=False, edgecolor=STYLE["text.color"], lw=1)
    )
    ax.set(xlim=(0, 11.5), ylim=(11.3, 0), aspect="equal", ylabel="true digit")
    ax.set_xticks([k + 0.5 for k in classes], labels=list(classes))
    ax.set_yticks([k + 0.5 for k in classes], labels=list(classes))
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("predicted digit")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    svg = plot_svg(
        fig,
        "classification-metrics",
        "Confusion matrix of the digits",
        "Ten true digits in rows, ten predicted in columns, counts of five runs. Nearly all lie on the diagonal; "
        f"of the {true[8]} rare eights {hits[8]} do. The last column is recall, the last row precision.",
    )
