import torch

from cnn_techniques.evaluation import (
    best_temperature,
    expected_calibration_error,
    maximum_calibration_error,
    reliability,
    top_confidence,
)

# --8<-- [start:usage]
torch.manual_seed(0)
honest = 2 * torch.randn(20000, 10, dtype=torch.float64)
labels = torch.distributions.Categorical(logits=honest).sample()
logits = 2.5 * honest  # as a network that is too sure: the right temperature is 2.5
chosen, tested = slice(0, 10000), slice(10000, 20000)
temperature = best_temperature(logits[chosen], labels[chosen])
print(f"temperature {temperature:.2f}")
for T in (1.0, temperature):
    confidence, right = top_confidence(logits[tested], labels[tested], T)
    bins = reliability(confidence, right, bins=15)
    print(
        f"T = {T:.2f}: confidence {confidence.mean():.3f},",
        f"accuracy {right.double().mean():.3f},",
        f"ECE {expected_calibration_error(bins):.3f},",
        f"MCE {maximum_calibration_error(bins):.3f}",
    )
# --8<-- [end:usage]
