"""Networks for the tests of the Torch-Pruning host, and what two groups have in common."""

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import nn

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Halves(nn.Module):
    """Two couplings that one layer writes: its outputs are split, and each half is read by a layer of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.both = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 20, 1)
        self.sizes = [10, 10]
        self.left, self.right, self.head = nn.Conv2d(10, 8, 1), nn.Conv2d(10, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        left, right = self.both(self.stem(x).relu()).split(self.sizes, 1)
        return self.head((self.left(left.relu()) + self.right(right.sigmoid())).mean((2, 3)))


class Bare(nn.Module):
    """Matrices that are no layers."""

    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Parameter(torch.randn(12, 16)), nn.Parameter(torch.rand(16))
        self.second = nn.Parameter(torch.randn(16, 5))

    def forward(self, x):
        return (x @ self.first * self.scale).relu() @ self.second


class Recurrent(nn.Module):
    """A long short-term memory over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.stem, self.rnn = nn.Linear(64, 6), nn.LSTM(6, 7, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, 3)

    def forward(self, x):
        return self.head(self.rnn(self.stem(x.mean(1)))[0].mean(1))


class Shuffled(nn.Module):
    """Grouped and transposed convolutions, a group norm and a PReLU."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.PReLU(16), nn.Conv2d(16, 24, 3, groups=4), nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 2), nn.InstanceNorm2d(12, affine=True), nn.ReLU(), nn.Conv2d(12, 6, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x).mean((2, 3))


def small_vgg():
    """Feature maps that a linear layer reads flattened."""
    features = torchvision.models.vgg.make_layers([16, "M", 24, "M"], batch_norm=True)
    flatten = [nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    return nn.Sequential(features, *flatten, nn.Linear(24 * 9, 32), nn.ReLU(), nn.Linear(32, 10))


def small_vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3, num_classes=10, init_values=0.1
    )


def small_swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4),
        num_classes=10,
    )  # fmt: skip


NETS = {
    "resnet": lambda: torchvision.models.resnet18(num_classes=10),
    "vgg": small_vgg,
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(8, (3, 3), 16, num_classes=10),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=10),
    "shuffled": Shuffled,
    "halves": Halves,
    "recurrent": Recurrent,
    "vit": small_vit,
    "swin": small_swin,
    "torch_vit": lambda: torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=10),
}


def make(name):
    torch.manual_seed(0)
    model = NETS[name]().eval()
    for module in model.modules():  # so that no scale is 1 and no bias 0, and scores have something to say
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    nn.init.normal_(head_of(model).weight) if name == "torch_vit" else None  # which torchvision sets to zero
    return model


def head_of(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU)


def members(group, graph):
    """Which outputs and inputs of which layers a group names."""
    names = {module: name for name, module in graph.model.named_modules()}
    found = {}
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, LAYERS) and module in names:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            found.setdefault((names[module], side), set()).update(item.idxs)
    return frozenset((place, frozenset(indices)) for place, indices in found.items())


def state_of(model):
    """Everything that pruning might change: contents of tensors, and plain attributes."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = (int, float, str, tuple, bool)
    attributes = {
        (name, key): value
        for name, module in model.named_modules() for key, value in vars(module).items() if isinstance(value, plain)
    }  # fmt: skip
    return tensors, attributes


def same_state(one, other):
    return one[1] == other[1] and one[0].keys() == other[0].keys() and all(
        torch.equal(tensor, other[0][name]) for name, tensor in one[0].items()
    )  # fmt: skip


def with_gradients(model):
    model(X).square().sum().backward()
    return model


def hessian(model):
    importance = tp.importance.GroupHessianImportance()
    importance.accumulate_grad(model)
    return importance


IMPORTANCES = {
    "magnitude": lambda model: tp.importance.GroupMagnitudeImportance(),
    "l1 with biases": lambda model: tp.importance.GroupMagnitudeImportance(p=1, bias=True, normalizer="max"),
    "lamp": lambda model: tp.importance.LAMPImportance(),
    "fpgm": lambda model: tp.importance.FPGMImportance(),
    "taylor": lambda model: tp.importance.GroupTaylorImportance(),
    "hessian": hessian,
    "random": lambda model: tp.importance.RandomImportance(),
}
