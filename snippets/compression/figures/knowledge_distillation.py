import math

import matplotlib.pyplot as plt

from cnn_site.figures import Figure, act, chain, conv, data, grid, link, loss, op
from cnn_site.figures.plots import STYLE, plot_svg

x, labels = data("images"), data("labels")
teacher, student = conv("Teacher", "frozen"), conv("Student", "trained")
soft_t, soft_s = act("p = softmax", "of v / T"), act("q = softmax", "of z / T")
kl, ce = loss("KL(p ‖ q)", "soft targets"), loss("Cross-entropy", "of z, at T = 1")
total, out = op("+"), data("loss")
figure = Figure(
    "knowledge-distillation",
    "Knowledge distillation",
    "Teacher and student see the same images. The student is pulled towards the teacher's "
    "softened probabilities by alpha times T squared times a KL divergence, and towards the "
    "labels by 1 - alpha times a cross-entropy at temperature 1. No gradient flows into the "
    "teacher.",
    grid(
        [None, x, None],
        [teacher, student, labels],
        [soft_t, soft_s, ce],
        [None, kl, None],
        [None, total, None],
        [None, out, None],
        hgap=22,
    ),
    chain(x, student, soft_s, kl)
    + chain(teacher, soft_t)
    + chain(total, out)
    + [link(x, teacher, "lt"), link(student, ce, "rl"), link(labels, ce)]
    + [link(soft_t, kl, "bl", dash=True)]
    + [link(kl, total, label="× α T²"), link(ce, total, "br", "× (1 − α)")],
)

LOGITS = {"cat": 8.0, "dog": 5.0, "fox": 4.0, "car": -1.0, "ship": -2.0}


def temperatures() -> str:
    """One answer of a made-up teacher at three temperatures: computed from LOGITS."""
    with plt.rc_context(STYLE):
        fig, panels = plt.subplots(1, 3, sharey=True, figsize=(356 / 72, 190 / 72))
        for ax, t in zip(panels, (1, 4, 20), strict=True):
            powers = [math.exp(v / t) for v in LOGITS.values()]
            ax.bar(range(len(powers)), [power / sum(powers) for power in powers], 0.6)
            ax.set(title=f"T = {t}", ylim=(0, 1))
            ax.title.set_size(11)
            ax.set_xticks(range(len(LOGITS)), LOGITS, rotation=90)
            ax.grid(axis="x", visible=False)
        panels[0].set_ylabel("probability")
        return plot_svg(
            fig,
            "knowledge-distillation-temperatures",
            "The same logits at temperatures 1, 4 and 20",
            "Bars for five classes with logits 8, 5, 4, -1 and -2. At temperature 1 the first "
            "class has nearly all the probability; at 4 the second and third can be told from "
            "the last two; at 20 all five are nearly equal.",
        )


figures = {"temperatures": temperatures()}
