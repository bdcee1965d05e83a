"""Models, inputs and images with odd numbers in them, and what may come of pruning these: a good model, or one sentence."""

import itertools
import random
import warnings

import torch
from torch import nn

from dfpc_plugin import DFPCImportance, RepairedImportance, bgsc, find_couplings, prune, repair
from dfpc_plugin.errors import DFPCError
from dfpc_plugin.repairing import RepairSettings

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Two convolutions with batch norms, a residual addition, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem_bn(self.stem(x)).relu()
        x = (x + self.bn(self.conv(x))).relu()
        return self.head(x.mean((2, 3)))


VALUES = {
    "nan": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "1e30": 1e30, "-1e30": -1e30, "1e38": 3e38, "1e-30": 1e-30,
    "1e-42": 1e-42, "-1": -1.0, "0": 0.0,
}  # fmt: skip
TENSORS = [
    "stem.weight", "stem.bias", "stem_bn.weight", "stem_bn.bias", "stem_bn.running_mean", "stem_bn.running_var", "conv.weight",
    "bn.weight", "bn.running_mean", "bn.running_var", "head.weight", "head.bias",
]  # fmt: skip
SPREADS = {"one": lambda t: t.view(-1)[:1], "all": lambda t: t}


def model():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.train()(IMAGES)
    return net.eval()


def filled(name, value, spread):
    net = model()
    with torch.no_grad():
        SPREADS[spread](net.state_dict()[name]).fill_(VALUES[value])
    return net


def sparse_weight():
    net = model()
    net.head.weight = nn.Parameter(net.head.weight.detach().to_sparse())
    return net


def sparse_rows():
    net = model()
    net.head.weight = nn.Parameter(net.head.weight.detach().to_sparse_csr())
    return net


def float8(kind):
    net = model()
    net.conv.weight = nn.Parameter(net.conv.weight.detach().to(kind), requires_grad=False)
    return net


def complex_weight():
    net = model()
    net.head.weight = nn.Parameter(net.head.weight.detach().to(torch.complex64))
    return net


def integers():
    net = model()
    net.conv.weight = nn.Parameter(net.conv.weight.detach().to(torch.int8), requires_grad=False)
    return net


def partly_meta():
    net = model()
    net.bn.running_var = net.bn.running_var.to("meta")
    return net


def wrong_statistics():
    net = model()
    net.bn.running_var = torch.ones(7)
    return net


def quantised():
    net = model()
    net.conv.weight = nn.Parameter(
        torch.quantize_per_tensor(net.conv.weight.detach(), 0.1, 0, torch.qint8), requires_grad=False
    )
    return net


MODELS = {
    "as it is": model,
    "float64": lambda: model().double(),
    "float16": lambda: model().half(),
    "bfloat16": lambda: model().bfloat16(),
    "meta": lambda: model().to("meta"),
    "partly meta": partly_meta,
    "sparse": sparse_weight,
    "sparse rows": sparse_rows,
    "float8": lambda: float8(torch.float8_e4m3fn),
    "float8, the other": lambda: float8(torch.float8_e5m2),
    "complex": lambda: model().to(torch.complex64),
    "complex weight": complex_weight,
    "int8": integers,
    "quantised": quantised,
    "wrong statistics": wrong_statistics,
    "no parameters": lambda: nn.Sequential(nn.ReLU(), nn.Flatten()),
    "float64 head": lambda: (net := model(), net.head.double())[0],
}
INPUTS = {
    "as they are": lambda: IMAGES[:1].clone(),
    "float64": lambda: IMAGES[:1].double(),
    "float16": lambda: IMAGES[:1].half(),
    "int64": lambda: torch.zeros(1, 3, 8, 8, dtype=torch.long),
    "uint8": lambda: torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    "bool": lambda: torch.zeros(1, 3, 8, 8, dtype=torch.bool),
    "complex": lambda: IMAGES[:1].to(torch.complex64),
    "zero pixels": lambda: torch.zeros(1, 3, 0, 0),
    "zero images": lambda: torch.zeros(0, 3, 8, 8),
    "zero channels": lambda: torch.zeros(1, 0, 8, 8),
    "one channel": lambda: torch.zeros(1, 1, 8, 8),
    "one pixel": lambda: torch.zeros(1, 3, 1, 1),
    "meta": lambda: torch.zeros(1, 3, 8, 8, device="meta"),
    "sparse": lambda: IMAGES[:1].to_sparse(),
    "nan": lambda: torch.full((1, 3, 8, 8), float("nan")),
    "a vector": lambda: torch.zeros(3),
    "a number": lambda: torch.zeros(()),
    "nothing": lambda: (),
    "None": lambda: (None,),
    "text": lambda: ("image.jpg",),
}
CALIBRATION = {
    "as they are": lambda: IMAGES,
    "nan": lambda: IMAGES.masked_fill(IMAGES > 0.99, float("nan")),
    "inf": lambda: IMAGES.masked_fill(IMAGES > 0.99, float("inf")),
    "1e30": lambda: IMAGES * 1e30,
    "1e-30": lambda: IMAGES * 1e-30,
    "all alike": lambda: torch.ones(24, 3, 8, 8),
    "zeros": lambda: torch.zeros(24, 3, 8, 8),
    "float64": lambda: IMAGES.double(),
    "int64": lambda: (IMAGES * 255).long(),
    "uint8": lambda: (IMAGES * 255).byte(),
    "complex": lambda: IMAGES.to(torch.complex64),
    "zero pixels": lambda: torch.zeros(24, 3, 0, 0),
    "none": lambda: torch.zeros(0, 3, 8, 8),
    "one": lambda: IMAGES[:1],
    "one channel": lambda: IMAGES[:, :1],
    "four channels": lambda: IMAGES[:, [0, 1, 2, 0]],
    "no channels": lambda: torch.zeros(24, 8, 8),
    "meta": lambda: IMAGES.to("meta"),
    "sparse": lambda: IMAGES.to_sparse(),
    "texts": lambda: ["a.jpg", "b.jpg", "c.jpg"],
    "numbers": lambda: [1, 2, 3],
    "a path": lambda: "images/",
    "None": lambda: [None, None, None],
}


def pruned(method=None, **options):
    def act(net, inputs, images):
        how = (
            None
            if method is None
            else RepairSettings(method, images if method == "calibrate" else None, count=16, steps=2)
        )
        return prune(net, inputs, "macs=0.7", repair=how, **options).model

    return act


def ranked(importance):
    return lambda net, inputs, images: prune(net, inputs, "macs=0.7", importance=importance()).model


def repaired(method):
    def act(net, inputs, images):
        small = prune(net, inputs, "macs=0.7").model
        return repair(
            small, net, inputs, RepairSettings(method, images if method == "calibrate" else None, count=16, steps=2)
        ).model

    return act


def scored(ranking):
    def act(net, inputs, images):
        bgsc(net, inputs, ranking=ranking)

    return act


def coupled(net, inputs, images):
    find_couplings(net, inputs)


ACTIONS = {
    **{f"bgsc {r}": scored(r) for r in ("published", "relative", "expected", "output")},
    "find_couplings": coupled,
    **{f"prune {m}": pruned(m) for m in (None, "mean", "merge", "synthetic", "calibrate")},
    "prune in place": pruned("merge", inplace=True),
    "prune and rescore": pruned("merge", rescore=0.2),
    "rank by output": ranked(lambda: DFPCImportance("output")),
    "rank by repair": ranked(lambda: RepairedImportance()),
    **{f"repair {m}": repaired(m) for m in ("mean", "merge", "synthetic", "calibrate")},
}


def combinations():
    """All of them: names of what is odd, and of what is done."""
    weights = [("weights", *each) for each in itertools.product(TENSORS, VALUES, SPREADS)]
    odd = [*weights, *(("model", name) for name in MODELS), *(("inputs", name) for name in INPUTS)]
    found = [(each, action) for each in odd for action in ACTIONS]
    by_images = [name for name in ACTIONS if name.endswith("calibrate")]
    return found + [(("images", name), action) for name in CALIBRATION for action in by_images]


def sample(count):
    """Some of the combinations, always the same ones, and every kind of model, inputs and images among them."""
    every = combinations()
    random.Random(0).shuffle(every)
    seen, first, rest = set(), [], []
    for each in every:
        (rest if each[0] in seen or each[0][0] == "weights" else first).append(each)
        seen.add(each[0])
    return (first + rest)[:count]


def outcome(odd, action):
    """Do it; None if all is well, else what is not."""
    kind, *which = odd
    net = filled(*which) if kind == "weights" else MODELS[which[0]]() if kind == "model" else model()
    inputs = INPUTS[which[0] if kind == "inputs" else "as they are"]()
    images = CALIBRATION[which[0] if kind == "images" else "as they are"]()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = ACTIONS[action](net, inputs, images)
    except DFPCError as error:
        problem = fault_of(str(error))
        if problem is not None:
            return problem
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if result is not net:
        after = net.state_dict()
        if before.keys() != after.keys() or not all(_same(before[name], after[name]) for name in before):
            return "the model is not what it was"
    if result is not None and all(_finite(t) for t in before.values()):
        lost = [name for name, tensor in result.state_dict().items() if not _finite(tensor)]
        if lost:
            return f"{lost} is not finite"
    return None


NAMES = ("stem", "conv", "bn", "head", "input", "image", "layer", "Repair", "coupling", "dtype", "meta", "model")


def fault_of(text):
    """What is wrong with what an error says; None if nothing."""
    if "\n" in text.strip() or len(text) > 600:
        return f"not one sentence: {text[:600]}"
    if not text.endswith("."):
        return f"no full stop: {text[-80:]}"
    if not any(name in text for name in NAMES):
        return f"names nothing: {text}"
    return None


def _same(mine, other):
    if mine.is_meta or other.is_meta:
        return mine.is_meta and other.is_meta
    if mine.layout != torch.strided:
        mine, other = mine.to_dense(), other.to_dense()
    if mine.is_quantized:
        mine, other = mine.int_repr(), other.int_repr()
    mine, other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (mine, other))
    return torch.equal(mine, other)


def _finite(tensor):
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.element_size() == 1:
        return True
    return bool(torch.isfinite(tensor).all())
