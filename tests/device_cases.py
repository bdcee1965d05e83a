"""What is done to a network on a device, to be compared with the CPU: `there` puts images on the device."""

import torch
import torch_pruning as tp
from torch import nn

import dfpc_plugin as dfpc
import odd_numbers
from dfpc_plugin.repairing import RepairSettings
from steady_machine import RealForwards

IMAGES = odd_numbers.IMAGES


class Attention(nn.Module):
    """Attention, a depthwise convolution, layer norms, a gate and a table of positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.table = nn.Parameter(torch.randn(1, 16, 8))
        self.register_buffer("scale", torch.rand(8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.depthwise(self.stem(x)).flatten(2).mT * self.scale + self.table
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(self.gate(x).sigmoid() * self.up(x))
        mask = torch.arange(x.shape[1], device=x.device) % 2
        return self.head((x * mask[:, None]).mean(1))


def attention():
    torch.manual_seed(0)
    return Attention().eval()


def by_action(name):
    return lambda net, there: odd_numbers.ACTIONS[name](net, there(IMAGES[:1]), there(IMAGES))


def calibrated_on_the_cpu(net, there):
    how = RepairSettings("calibrate", IMAGES, count=16)
    return dfpc.prune(net, there(IMAGES[:1]), "macs=0.7", repair=how).model


def by_torch_pruning(net, there):
    pruner = tp.MetaPruner(
        net, there(IMAGES[:1]), importance=dfpc.DFPCImportance(), pruning_ratio=0.3, ignored_layers=[net.head]
    )
    pruner.step()
    return net


def by_own_pruner(net, there):
    importance = dfpc.DFPCImportance()
    dfpc.DFPCPruner(net, there(IMAGES[:1]), importance=importance, pruning_ratio=0.3, ignored_layers=[net.head]).step()
    return net


def replayed(net, there):
    inputs = there(IMAGES[:1])
    return dfpc.replay(net, inputs, dfpc.prune(net, inputs, "macs=0.7").removed)


def timed(net, there):
    inputs = there(IMAGES[:2])
    dfpc.measure_latency({"net": net}, inputs, forwards=8)
    dfpc.prune(net, inputs, "speedup=1.01", latency=RealForwards(forwards=16), round_to=1)


class OnTwoDevices(nn.Module):
    """What comes from a network on a device goes through two layers that are on the CPU."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.hidden, self.head = body, nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.hidden(self.body(x).cpu()).relu())


def on_two_devices(net, there):
    model, inputs = OnTwoDevices(net).eval(), there(IMAGES[:1])
    head = dfpc.prune(model, inputs, "ratio=0.3", ignored_layers=["body*"], repair="merge").model
    assert head.hidden.out_features < 16 and str(head.hidden.weight.device) == "cpu"
    result = dfpc.prune(model, inputs, "macs=0.7", repair="merge").model
    assert str(result.hidden.weight.device) == "cpu" and result(there(IMAGES[:2])).shape == (2, 3)
    return result.body


CASES = {name: by_action(name) for name in odd_numbers.ACTIONS} | {
    "calibrate with images on the CPU": calibrated_on_the_cpu,
    "Torch-Pruning's pruner": by_torch_pruning,
    "own pruner": by_own_pruner,
    "replay": replayed,
    "latency": timed,
    "two devices": on_two_devices,
}
SOME = ("bgsc output", "find_couplings", "prune merge", "repair calibrate", "own pruner", "replay")
"""What is done to the second network; images are made from batch norms, of which it has none."""
NETWORKS = [(odd_numbers.model, name) for name in CASES] + [(attention, name) for name in SOME]
"""What builds a network, and what is done to it."""
