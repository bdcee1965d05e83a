"""Small networks to prune and repair, with statistics that fit their data."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int, inner: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, 1, 1, bias=False, groups=groups), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class SmallResNet(nn.Module):
    """Two residual blocks between a stem and a classifier."""

    def __init__(self, width: int = 12, inner: int = 16, groups: int = 1) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.first, self.second = Block(width, inner, groups), Block(width, inner)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.second(self.first(x)).mean((2, 3)))


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of some images, so that the model fits data like these."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    with torch.no_grad():
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def small_resnet(seed: int = 0, **options: int) -> tuple[SmallResNet, Tensor]:
    """A network and images that its statistics are those of."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = torch.randn(64, 3, 8, 8)
        images = images + nn.functional.avg_pool2d(images, 3, 1, 1) * 2
        model = SmallResNet(**options)
        settled(model, images)
    return model, images


def relative_error(model: nn.Module, original: nn.Module, images: Tensor) -> float:
    """Squared error of the output over its variance."""
    with torch.no_grad():
        found, wanted = model.eval()(images), original.eval()(images)
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())
