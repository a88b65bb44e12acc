import torch
from torch import distributed, nn

from cnn_techniques.optimization import average_gradients, copy_from_first, own_share


# --8<-- [start:usage]
def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    return net.double()


distributed.init_process_group("gloo")  # "nccl" on GPUs; torchrun says who is who
torch.manual_seed(distributed.get_rank())  # other weights in each process, at first
net, alone = network(), network()
copy_from_first(net)
alone.load_state_dict(net.state_dict())  # trained on whole batches, to compare with
optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (net, alone)]

draw = torch.Generator().manual_seed(0)  # the same batches in each process
for step in range(3):
    images = torch.randn(7, 1, 6, 6, generator=draw, dtype=torch.float64)
    labels = torch.randint(5, (7,), generator=draw)
    for optimizer in optimizers:
        optimizer.zero_grad()
    x, y = own_share(images), own_share(labels)  # 4 images here, 3 in the other
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    average_gradients(net, count=len(x))
    nn.functional.cross_entropy(alone(images), labels).backward()
    for optimizer in optimizers:
        optimizer.step()
    if distributed.get_rank() == 0:
        both = zip(net.parameters(), alone.parameters(), strict=True)
        equal = all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in both)
        print(f"step {step}: {len(x)} images, loss {loss:.4f}, weights equal: {equal}")
distributed.destroy_process_group()
# --8<-- [end:usage]
