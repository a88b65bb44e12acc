# --8<-- [start:usage]
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

EPOCHS, BATCH, RATE, SEED = 8, 64, 0.1, 0
LAST = Path("last.pt")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def data() -> list[Dataset]:
    """What to learn from, what to choose by, and what to report once."""
    scans = load_digits()
    images = torch.tensor(scans.images, dtype=torch.float32)[:, None] / 16
    images = (images - 0.3) / 0.4  # about mean 0 and deviation 1
    every = TensorDataset(images, torch.tensor(scans.target))
    return random_split(every, [1000, 200, 597], torch.Generator().manual_seed(0))


def network() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)]
    return nn.Sequential(*block(1, 32), *block(32, 64), *head)


def epoch_of(model, loader, optimizer, schedule) -> float:
    """One pass over the images; returns the mean loss."""
    model.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(labels)
    return total / len(loader.dataset)


@torch.no_grad()
def accuracy(model, part: Dataset) -> float:
    model.eval()
    right = 0
    for images, labels in DataLoader(part, batch_size=256):
        right += (model(images.to(DEVICE)).argmax(1) == labels.to(DEVICE)).sum().item()
    return right / len(part)


def save(path: Path, **state) -> None:
    """A file that is whole or not there: a stop while writing leaves the last one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main() -> None:
    learn, choose, report = data()
    torch.manual_seed(SEED)
    model = network().to(DEVICE)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = EPOCHS * -(-len(learn) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    done = 0
    if LAST.exists():
        state = torch.load(LAST, map_location=DEVICE, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        done = state["done"]
        print(f"{LAST} has {done} epochs: going on")
    for epoch in range(done, EPOCHS):
        torch.manual_seed(1000 * SEED + epoch)  # order and dropout of this epoch
        loader = DataLoader(learn, BATCH, shuffle=True)
        loss = epoch_of(model, loader, optimizer, schedule)
        save(LAST, done=epoch + 1, **{k: v.state_dict() for k, v in parts.items()})
        chosen = accuracy(model, choose)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, held-out accuracy {chosen:.1%}")
    print(f"accuracy, looked at once: {accuracy(model, report):.1%}")


if __name__ == "__main__":
    main()
# --8<-- [end:usage]
