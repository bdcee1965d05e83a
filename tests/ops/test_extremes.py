"""The largest and smallest entry: of two tensors, of all entries, and of constants."""

import pytest
import torch
from torch import Tensor, nn

import dfpc_plugin as dfpc
from dfpc_plugin import bgsc

IMAGE = torch.rand(1, 3, 6, 6)


class Net(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.function = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.norm(self.a(x))))


WHOLE = {
    "max": lambda x: x * x.max(),
    "min": lambda x: x * x.min(),
    "amax": lambda x: x * x.amax(),
    "max of a softmax": lambda x: x * x.softmax(1).max(),
    "largest channel": lambda x: x * x.max(1, keepdim=True).values,
}


@pytest.mark.parametrize("ranking", ["published", "relative", "expected", "output"])
@pytest.mark.parametrize("name", WHOLE)
def test_one_number_of_all_entries(name: str, ranking: str) -> None:
    result = dfpc.prune(Net(WHOLE[name]).eval(), IMAGE, "ratio=0.3", importance=dfpc.DFPCImportance(ranking))
    assert min(result.couplings[0].scores) > 0 and result.couplings[0].before == 8


@pytest.mark.parametrize("ranking", ["expected", "output"])
def test_the_smaller_of_two_counts_as_minus_the_larger_of_their_opposites(ranking: str) -> None:
    smaller, opposite, larger = (
        Net(function)
        for function in (lambda x: x.min(torch.zeros(())), lambda x: -(-x).relu(), lambda x: x.max(torch.zeros(())))
    )
    for net in (smaller, opposite, larger):
        net.norm.bias.data[:4], net.norm.bias.data[4:] = 0.5, -0.5
    found, wanted, other = (bgsc(net.eval(), IMAGE, ranking=ranking)["a"] for net in (smaller, opposite, larger))
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, other, rtol=0.1)


class Queries(nn.Module):
    """A decoder whose self-attention has nothing but learned queries to look at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3)
        self.queries = nn.Parameter(torch.randn(5, 1, 16))
        self.layer = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.stem(x).flatten(2).permute(2, 0, 1)
        queries = self.queries.expand(-1, x.shape[0], -1)
        return self.head(self.layer(queries, memory)).mean(0)


@pytest.mark.parametrize("ranking", ["expected", "output"])
def test_attention_among_constants_has_their_values(ranking: str) -> None:
    model = Queries().eval()
    result = dfpc.prune(model, IMAGE, "ratio=0.3", importance=dfpc.DFPCImportance(ranking))
    assert "layer.linear1" in [coupling.name for coupling in result.couplings]
    assert torch.isfinite(result.model(IMAGE)).all()
