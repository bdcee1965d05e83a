"""Widths that models state about themselves stay true, where they were; `reset_classifier` believes them."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import dfpc_plugin as dfpc
from cut_nets import assert_same, snapshot
from dfpc_plugin.couplings import map_couplings
from dfpc_plugin.models import build_model, example_inputs
from dfpc_plugin.surgery import attributes, cut
from feature_widths import Detector, cut_at_random, stated, truths, widths_of
from traced_runs import traced_channels
from zero_cut import random_units, removed_channels
from zoo import timm_zoo

SMALL = """
    test_resnet mobilenetv3_small_050 test_efficientnet test_convnext test_vit swin_tiny_patch4_window7_224
    vit_tiny_r_s16_p8_224 regnetx_002 vgg11
""".split()
"""With and without a layer before the classifier, with channels last, of tokens, and of both maps and tokens."""

IMAGE = torch.rand(2, 3, 8, 8)


def assert_as_true_after_cut(name: str) -> tuple[nn.Module, Any]:
    model = build_model(name, meta=True).eval()
    inputs = example_inputs(model, name, device="meta")
    before = truths(model, inputs)
    cut_at_random(model, inputs)
    assert truths(model, inputs) == before
    return model, inputs


@pytest.mark.parametrize("name", [name for name in SMALL if timm.is_model(name)])
def test_what_timm_states_is_as_true_as_before(name: str) -> None:
    widths = stated(build_model(name, meta=True))
    after = stated(assert_as_true_after_cut(name)[0])
    assert after[0] < widths[0] and after[1] < widths[1]
    assert len(after[3]) == len(widths[3]) and all(map(int.__lt__, after[3], widths[3]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # models warn about their own deprecations while they are built
@pytest.mark.parametrize("name", timm_zoo())
def test_what_every_file_of_timm_states_is_as_true_as_before(name: str) -> None:
    assert_as_true_after_cut(name)


def test_by_hand() -> None:
    model = cut_at_random(timm.create_model("test_resnet").eval(), torch.rand(1, 3, 64, 64))
    x = torch.rand(1, 3, 64, 64)
    assert (
        model.forward_features(x).shape[1] == model.num_features == model.head_hidden_size == model.fc.in_features < 96
    )
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [entry["num_chs"] for entry in model.feature_info] == widths_of(maps)
    model.reset_classifier(7, global_pool="catavgmax")
    assert model(x).shape == (1, 7) and model.fc.in_features == 2 * model.num_features


def test_models_within_models_are_asked_too() -> None:
    model = Detector().eval()
    before = model.body.feature_info
    contents = copy.deepcopy(before.info)
    cut_at_random(model, IMAGE)
    channels = widths_of(model.body(IMAGE))
    assert model.body.feature_info.channels() == channels == [layer.in_channels for layer in model.necks]
    assert channels == [34, 135, 68] and before.info == contents and before is not model.body.feature_info
    assert model.body.feature_info.channels([0, 1]) == [
        model.body.bn1.num_features,
        model.body.layer1[0].bn2.num_features,
    ]


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_features = self.num_features = width
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Net(nn.Module):
    """A network that follows timm's manners; two of its statements are untrue, and of one nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), Head(8)
        self.num_features, self.head_hidden_size, self.embed_dims = 8, 9, (6, 7, 8)
        self.feature_info = [
            {"num_chs": 6, "module": "stem"}, {"num_chs": 7, "module": "body"}, {"num_chs": 8, "module": "act"},
        ]  # fmt: skip

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x).relu()).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


class WithIntermediates(Net):
    """The same, that returns its features on demand."""

    def forward_intermediates(self, x: Tensor, intermediates_only: bool = False) -> list[Tensor]:
        assert intermediates_only
        stem = self.stem(x)
        body = self.body(stem.relu())
        return [stem, body, body.relu()]


class Failing(Net):
    """The same, where that goes wrong."""

    def forward_intermediates(self, x: Tensor, intermediates_only: bool = False) -> list[Tensor]:
        raise NotImplementedError


class Unknown(Net):
    """The same, by an operator that nobody knows."""

    def forward_intermediates(self, x: Tensor, intermediates_only: bool = False) -> list[Tensor]:
        stem = self.stem(x)
        return [stem, torch.special.i0e(stem), torch.special.i0e(self.body(stem))]


class Alike(nn.Module):
    """What it embeds, its features and what the classifier reads are of one width, and of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.body, self.neck, self.head = (
            nn.Linear(3, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
        )
        self.num_features = self.head_hidden_size = self.embed_dim = 8

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(self.patch_embed(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.forward_features(x).relu()).relu())


def test_widths_that_happen_to_be_equal_are_told_apart() -> None:
    model = Alike()
    couplings = map_couplings(model, torch.rand(2, 5, 3))
    for name, units in (("patch_embed", 1), ("body", 2), ("neck", 3)):
        blocks = next(c.blocks for c in couplings.couplings if c.name == name and c.protected is None)
        cut(model, couplings, blocks[:, :units].reshape(-1))
    assert (model.embed_dim, model.num_features, model.head_hidden_size) == (7, 6, 5)


class Placed(Net):
    """Features to which positions are added: as many along a row as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = [
            {"num_chs": 6, "module": "body", "hook_type": "forward_pre"},
            {"num_chs": 8, "module": "body"},
        ]
        self.positions = nn.Parameter(torch.rand(8))

    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x) + self.positions


def test_positions_are_no_channels_and_what_enters_a_module_is_a_feature_too() -> None:
    model, image = Placed(), torch.rand(2, 3, 12, 12)
    assert model.forward_features(image).shape == (2, 8, 8, 8)
    cut_at_random(model, image)
    assert model.num_features == model.forward_features(image).shape[1] == 6
    assert [entry["num_chs"] for entry in model.feature_info] == [5, 6]


def states_of(model: Any) -> tuple[Any, ...]:
    info = [entry["num_chs"] for entry in model.feature_info]
    return (
        model.num_features,
        model.head_hidden_size,
        model.embed_dims,
        info,
        model.head.in_features,
        model.head.num_features,
    )


@pytest.mark.parametrize(
    ("kind", "last"),
    [(Net, 8), (Failing, 8), (Unknown, 8), (WithIntermediates, 6)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_only_what_was_true_is_changed(kind: type[Net], last: int) -> None:
    model = kind()
    assert states_of(model) == (8, 9, (6, 7, 8), [6, 7, 8], 8, 8)
    cut_at_random(model, IMAGE)
    assert (model.stem.out_channels, model.body.out_channels) == (5, 6)
    assert states_of(model) == (6, 9, (5, 7, 8), [5, 7, last], 6, 6)


def test_what_somebody_has_changed_since_is_left_alone() -> None:
    model = Net()
    couplings = map_couplings(model, IMAGE)
    model.num_features, model.feature_info = 20, []
    del model.head.in_features
    cut(model, couplings, removed_channels(couplings, random_units(couplings)))
    assert (model.num_features, model.feature_info, model.head.num_features) == (20, [], 6)


def test_cut_after_cut() -> None:
    model = Net()
    couplings = map_couplings(model, IMAGE)
    for coupling in couplings.couplings:
        for unit in (0, 1):
            if coupling.protected is None:
                cut(model, couplings, coupling.blocks[:, unit])
    assert states_of(model) == (6, 9, (4, 7, 8), [4, 7, 8], 6, 6)
    cut_at_random(model, IMAGE)
    assert states_of(model)[0] == model.body.out_channels == 5


def test_lists_that_others_may_share_are_not_written_to() -> None:
    model = Net()
    lists = model.feature_info, *model.feature_info
    contents = copy.deepcopy(lists)
    cut_at_random(model, IMAGE)
    assert lists == contents and model.feature_info is not lists[0]


def test_where_nothing_is_cut_nothing_is_replaced() -> None:
    model = Net()
    couplings = map_couplings(model, IMAGE)
    stem, body = (
        next(c for c in couplings.couplings if c.name == name and c.protected is None) for name in ("stem", "body")
    )
    info, numbers = model.feature_info, (model.num_features, model.head.num_features)
    cut(model, couplings, stem.blocks[:, 0])
    assert (model.num_features, model.head.num_features) == numbers
    assert (
        model.feature_info[1] is info[1] and model.feature_info[2] is info[2] and model.feature_info[0] is not info[0]
    )
    model.feature_info = info
    cut(model, couplings, body.blocks[:, 0])
    assert model.feature_info is info


def test_a_cut_that_fails_half_way_takes_statements_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    couplings = map_couplings(model, IMAGE)
    before, info, calls = snapshot(model), model.feature_info, []

    def fail_at_last(value: Any, entry: int | None, width: int) -> Any:
        calls.append(width)
        if len(calls) == 4:
            raise RuntimeError("no more")
        return attributes.restated(value, entry, width)

    monkeypatch.setattr(importlib.import_module("dfpc_plugin.surgery.cut"), "restated", fail_at_last)
    with pytest.raises(RuntimeError, match="no more"):
        cut(model, couplings, removed_channels(couplings, random_units(couplings)))
    assert_same(before, snapshot(model))
    assert model.feature_info is info


class Branches(nn.Module):
    """Two networks side by side, with a classifier of each."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.num_features, self.head_hidden_size, self.embed_dim = axis, 14, 14, [6, 8]
        self.branches, self.heads = (
            nn.ModuleList([nn.Linear(3, 6), nn.Linear(3, 8)]),
            nn.ModuleList([nn.Linear(6, 2), nn.Linear(8, 2)]),
        )

    def get_classifier(self) -> nn.ModuleList:
        return self.heads

    def forward_features(self, x: Tensor) -> list[Tensor]:
        return [branch(x).movedim(-1, self.axis) for branch in self.branches]

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x)
        return torch.stack([head(y.movedim(self.axis, -1)) for head, y in zip(self.heads, features, strict=True)]).sum(
            0
        )


@pytest.mark.parametrize("axis", [1, -1])
def test_branches_are_counted_one_by_one_and_together(axis: int) -> None:
    model = cut_at_random(Branches(axis), torch.rand(2, 5, 3))
    assert [branch.out_features for branch in model.branches] == model.embed_dim == [5, 6]
    assert model.num_features == model.head_hidden_size == 11


class Asking(Net):
    """The same, with a forward that asks for what it states."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).view(len(x), self.num_features, 4, 4))


def test_what_the_forward_asks_for_is_solved_for_as_ever() -> None:
    model = Asking()
    assert "num_features" not in [
        entry.name for entry in map_couplings(model, IMAGE).channels.stated if not entry.module
    ]
    cut_at_random(model, IMAGE)
    assert model.num_features == 6 and model(IMAGE).shape == (2, 5)


@pytest.mark.parametrize("kind", [Net, Failing, WithIntermediates])
def test_looking_leaves_no_trace(kind: type[Net]) -> None:
    model = kind().train()
    before, random = snapshot(model), torch.get_rng_state()
    tables = [
        (id(module._forward_hooks), len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    run = traced_channels(model, IMAGE)
    assert torch.equal(random, torch.get_rng_state()) and all(module.training for module in model.modules())
    assert tables == [(id(m._forward_hooks), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert "forward_features" not in vars(model)
    assert_same(before, snapshot(model))
    assert (len(run.work), len(run.table.sizes)) == (3, len(traced_channels(Net(), IMAGE).table.sizes))


def test_looking_leaves_no_trace_when_the_forward_raises() -> None:
    model = Net()
    model.forward_features = own = lambda x: model.body(x)
    with pytest.raises(RuntimeError):
        traced_channels(model, IMAGE)
    assert vars(model)["forward_features"] is own
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("answer", [None, 3, "fc", nn.Identity(), [nn.Identity()]], ids=str)
def test_whatever_a_model_calls_its_classifier(answer: Any) -> None:
    model = Net()
    model.__class__ = type("Other", (Net,), {"get_classifier": lambda self: answer})
    cut_at_random(model, IMAGE)
    assert states_of(model) == (6, 9, (5, 7, 8), [5, 7, 8], 6, 6)  # the head declares the width of its own layer


def test_a_classifier_that_cannot_be_got_is_none() -> None:
    model = Net()
    model.__class__ = type("Other", (Net,), {"get_classifier": lambda self, name: self.head.fc})
    cut_at_random(model, IMAGE)
    assert states_of(model)[0] == 6 and states_of(model)[-2:] == (6, 6)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("part", ["layer1", "fc"])
def test_scripted_parts_are_not_watched(part):
    model = timm.create_model("resnet18").eval()
    setattr(model, part, torch.jit.script(getattr(model, part)))
    assert dfpc.find_couplings(model, torch.randn(1, 3, 32, 32))


def test_a_feature_info_that_cannot_be_written_is_left_alone():
    class Info:
        @property
        def info(self):
            return [{"num_chs": 8, "module": "stem"}]

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 2, 1)
            self.feature_info = Info()

        def forward(self, x):
            return self.head(self.stem(x))

    model, x = Model().eval(), torch.randn(1, 3, 4, 4)
    assert dfpc.replay(model, x, {"stem": (0, 1)}).stem.out_channels == 6
