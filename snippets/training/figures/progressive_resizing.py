import matplotlib.pyplot as plt

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import ProgressiveLearning

EPOCHS = 350
plan = ProgressiveLearning(
    EPOCHS, (128, 300), {"dropout": (0.1, 0.3), "RandAugment": (5, 15)}
)
stages = [plan.at(epoch) for epoch in range(EPOCHS)]

with plt.rc_context(STYLE):
    fig, (above, below) = plt.subplots(2, 1, sharex=True)
    above.plot([stage.size for stage in stages], label="size, pixels")
    above.set(ylim=(90, 340), yticks=[stage.size for stage in plan.stages])
    above.legend(loc="upper left")
    for name, style in (("dropout", "-"), ("RandAugment", "--")):
        start, end = stages[0].strengths[name], stages[-1].strengths[name]
        shown = f"{name}, {start:g} to {end:g}"
        values = [(s.strengths[name] - start) / (end - start) for s in stages]
        below.plot(values, style, label=shown)
    below.set(
        xlabel="epoch",
        xlim=(0, EPOCHS),
        ylim=(-0.15, 1.6),
        yticks=(0, 1),
        yticklabels=("weakest", "strongest"),
    )
    below.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "progressive-resizing",
        "Image size, dropout and RandAugment over the 350 epochs of EfficientNetV2-S",
        "Two plots of four stairs each. Above, the size of the images: 128, 185, 243, then 300 pixels. "
        "Below, dropout from 0.1 to 0.3 and RandAugment from 5 to 15, which rise at the same epochs.",
    )
