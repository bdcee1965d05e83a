"""VGG-19 with batch norms and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class VGG(nn.Module):
    """Sixteen 3x3 convolutions in five stages, each followed by a pooling layer that halves the image."""

    def __init__(self, num_classes: int = 10) -> None:
        """Build the network."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, count in _STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` to logits `(N, num_classes)`."""
        return self.classifier(self.features(x).mean((2, 3)))
