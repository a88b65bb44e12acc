import matplotlib.pyplot as plt

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import ProgressiveLearning

EPOCHS = 350
plan = ProgressiveLearning(EPOCHS, (128, 300), {"dropout": (0.1, 0.3)})
stages = [plan.at(epoch) for epoch in range(EPOCHS)]

with plt.rc_context(STYLE):
    fig, (above, below) = plt.subplots(2, 1, sharex=True)
    above.plot(
        [stage.size for stage in stages], label="size, pixels", drawstyle="steps-post"
    )
    above.set(ylim=(90, 370), yticks=[stage.size for stage in plan.stages])
    above.legend(loc="upper left")
    dropout = [stage.strengths["dropout"] for stage in stages]
    below.plot(
        dropout,
        label="dropout; RandAugment 5 to 15 likewise",
        color="C1",
        drawstyle="steps-post",
    )
    below.set(
        xlabel="epoch",
        xlim=(0, EPOCHS),
        ylim=(0.05, 0.43),
        yticks=[stage.strengths["dropout"] for stage in plan.stages],
        yticklabels=[f"{s.strengths['dropout']:.2f}" for s in plan.stages],
    )
    below.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "progressive-resizing",
        "Image size and dropout over the 350 epochs of EfficientNetV2-S",
        "Two plots of four stairs each. Above, the size of the images: 128, 185, 243, then 300 pixels. "
        "Below, dropout from 0.1 to 0.3, which rises at the same epochs.",
    )
