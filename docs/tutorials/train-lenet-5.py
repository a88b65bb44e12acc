# %% [markdown]
# # Train LeNet-5
#
# LeNet-5 learns to read 1,200 scans of digits, is tried on 597 that it has never seen, shows what it got wrong, and is
# saved and loaded again. Everything is on the machine already: the scans come with scikit-learn.
#
# From a clone of the repository: `python docs/tutorials/train-lenet-5.py`, or open it as a notebook.

# %% [markdown]
# ## Data
#
# The scans are 8 × 8 pixels; LeNet-5 wants 32 × 32. `digits` enlarges them, and keeps the two parts apart.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch

from cnn_lab.data import digits
from cnn_lab.fit import accuracy, fit, predict
from cnn_techniques.foundations import LeNet5

images, labels = digits("train", size=32)
unseen, truth = digits("test", size=32)
print(tuple(images.shape), tuple(unseen.shape))

# %% [markdown]
# ## Training
#
# `fit` goes through the images in an order that depends on the seed and the epoch alone, so that a second run gives the
# same network. Another processor rounds otherwise, and 300 steps make more of it: there a few scans are read
# differently. `evaluate` is called after every epoch.

# %%
torch.manual_seed(0)
model = LeNet5()
history = fit(
    model,
    (images, labels),
    epochs=8,
    batch_size=32,
    optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
    evaluate=lambda model: {"accuracy": accuracy(model, unseen, truth)},
    seed=0,
)
for epoch in history:
    print(
        f"epoch {epoch['epoch']}: loss {epoch['loss']:.2f}, accuracy {epoch['accuracy']:.0%}"
    )

# %% [markdown]
# ## Mistakes
#
# A number hides what went wrong. The digits it is most sure about, and wrong:

# %%
probabilities = predict(model, unseen).softmax(dim=1)
confidence, guesses = probabilities.max(dim=1)
wrong = torch.where(guesses != truth)[0]
worst = wrong[confidence[wrong].argsort(descending=True)][:8]

scans, _ = digits("test")  # in their own 8 x 8 pixels
figure, axes = plt.subplots(2, 4, figsize=(6, 3.6), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for ax, i in zip(axes.flat, worst.tolist(), strict=False):
    ax.imshow(scans[i, 0].numpy(), cmap="gray_r")
    ax.set_title(f"{truth[i]} read as {guesses[i]}, {confidence[i]:.0%}", fontsize=8)
plt.show()
print(f"{len(wrong)} of {len(truth)} read wrongly")

# %% [markdown]
# ## Save and load
#
# A network's `state_dict` is all there is to keep. `weights_only=True` reads numbers and runs no code from the file.

# %%
with TemporaryDirectory() as folder:
    path = Path(folder) / "lenet-5.pt"
    torch.save(model.state_dict(), path)
    loaded = LeNet5()
    loaded.load_state_dict(torch.load(path, weights_only=True))
    print(f"{path.stat().st_size / 1000:.0f} KB")

same = torch.equal(predict(loaded, unseen), predict(model, unseen))
print("the same predictions" if same else "other predictions")
assert same

# %% [markdown]
# [The LeNet-5 page](../foundations/lenet-5.md) has the paper's own network beside this one, and both trained with five
# seeds.
