"""The ranking that anticipates a repair: who reads a coupling, what counts, and what is told."""

import pytest
import timm
import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin import DataFlowGraph, RepairedImportance
from dfpc_plugin.errors import DFPCError, RepairError
from dfpc_plugin.pruning.settings import default_per
from dfpc_plugin.selection import Target

IMAGE = torch.zeros(1, 3, 16, 16)
WIDTH, USELESS, ESSENTIAL = 12, 2, 4


class Scale(nn.Module):
    """A layer scale."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(WIDTH, 1, 1) + 0.5)

    def forward(self, x):
        return x * self.gamma


class Gate(nn.Module):
    """A squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(4, WIDTH, 1)

    def forward(self, x):
        return x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


BETWEEN = {
    "nothing": nn.Identity,
    "a depthwise convolution": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False),
    "a depthwise convolution and its norm": lambda: nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU6()
    ),
    "a group norm": lambda: nn.GroupNorm(1, WIDTH),
    "a layer scale": Scale,
    "a squeeze and excitation": Gate,
}


def net(between, groups=1):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(), BETWEEN[between](),
        nn.Conv2d(WIDTH, 8, 1, groups=groups), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def scores(model, importance, name="0"):
    graph = DataFlowGraph().build_dependency(model, IMAGE)
    (group,) = [group for group in graph.get_all_groups() if group.couplings[0].name == name]
    return importance(group)


@pytest.mark.parametrize("how", ["merge", "calibrate"])
@pytest.mark.parametrize("ranking", ["output", "expected"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("between", BETWEEN)
def test_a_useless_channel_goes_first_and_an_essential_one_last(between, groups, ranking, how):
    model = net(between, groups)
    inside = WIDTH // groups
    with torch.no_grad():
        model[4].weight[:, USELESS] = 0  # in every group, as one channel of each goes at a time
        model[4].weight[:, ESSENTIAL] *= 30
        if between == "a squeeze and excitation":  # which reads the channel, too
            model[3].reduce.weight[:, USELESS::inside] = 0
    images = torch.randn(32, 3, 16, 16) if how == "calibrate" else None
    found = scores(model, RepairedImportance(how, images=images, ranking=ranking))
    assert found.argmin() == USELESS and found.argmax() == ESSENTIAL
    assert found[USELESS] < 1e-6 * found[ESSENTIAL]


def test_shares_add_up_to_what_passes_the_readers():
    """Without correlations to use, channels together cost all that goes through the coupling."""
    found = scores(net("nothing"), RepairedImportance("merge", ranking="output"))
    assert 0.9 < float(found.sum()) < 10  # each costs as much as it does when it goes, and the last ones more


def test_of_two_that_are_alike_one_is_cheap():
    model = net("nothing")
    with torch.no_grad():
        for tensor in (model[0].weight, *model[1].parameters(), *model[1].buffers()):
            if tensor.dim():
                tensor[7] = tensor[1]
    found = scores(model, RepairedImportance("merge", ranking="output"))
    alike = sorted([float(found[1]), float(found[7])])
    assert alike[0] < 0.5 * alike[1]


def test_prune_ranks_so_where_a_repair_follows():
    model = net("a depthwise convolution and its norm")
    by_default = dfpc.prune(model, IMAGE, "macs=0.6", repair="merge")
    by_hand = dfpc.prune(
        model, IMAGE, "macs=0.6", repair="merge", importance=RepairedImportance("merge", ranking="output"), per="macs"
    )
    assert by_default.removed == by_hand.removed
    for own, other in zip(by_default.model.state_dict().values(), by_hand.model.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other)


def test_errors_at_the_outputs_are_divided_by_what_the_target_is_about():
    ours, theirs = RepairedImportance("merge", ranking="output"), dfpc.DFPCImportance()
    for target in (Target(macs=0.5, max_drop=1), Target(params=0.5), Target(macs=0.5, ratio=0.5)):
        assert default_per(ours, target) == "target"
    assert default_per(ours, Target(ratio=0.5)) == default_per(ours, Target(ratio=0.5, max_drop=1)) == "channel"
    assert default_per(dfpc.DFPCImportance("output"), Target(speedup=1.5)) == "macs"
    assert default_per(theirs, Target(macs=0.5)) == default_per(RepairedImportance(), Target(macs=0.5)) == "channel"


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
@pytest.mark.parametrize(("macs", "params"), [(0.6, 0.7), (0.6, 0.4), (0.8, 0.5)])
def test_a_target_of_several_counts_takes_no_more_of_any_than_it_must(name, macs, params):
    """Ranked by MACs alone, the first one loses 85 % of its MACs before it has lost 30 % of its parameters."""
    torch.manual_seed(0)
    model, image = timm.create_model(name).eval(), torch.rand(1, 3, 96, 96)

    def left(target):
        result = dfpc.prune(model, image, target)
        return result.after.macs / result.before.macs, result.after.parameters / result.before.parameters

    found, by_macs, by_params = left(f"macs={macs}, params={params}"), left(f"macs={macs}"), left(f"params={params}")
    assert (
        0.7 * min(macs, by_params[0]) < found[0] <= macs
    )  # prices are found anew after every hundredth of the channels,
    assert 0.7 * min(params, by_macs[1]) < found[1] <= params  # which are many MACs of so small a network


def test_a_target_of_one_count_is_divided_by_it():
    """What is saved as a share of what has to be saved orders channels as what is saved does."""
    model = net("a depthwise convolution and its norm")
    found = [
        dfpc.prune(model, IMAGE, "params=0.6", importance=dfpc.DFPCImportance("output"), per=per)
        for per in ("params", "target")
    ]
    assert found[0].removed == found[1].removed


def test_models_that_take_no_images_are_scored_without_noise():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.zeros(1, 6)
    group = next(iter(DataFlowGraph().build_dependency(model, x).get_all_groups()))
    found = RepairedImportance("merge", ranking="output", example_inputs=x)(group)
    torch.testing.assert_close(found, dfpc.DFPCImportance("output", example_inputs=x)(group))


def test_models_of_a_fixed_batch_are_looked_at_with_as_many_images():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

        def forward(self, x):
            assert len(x) == 1
            return self.second(self.first(x).relu().mean((2, 3)))

    found = scores(Fixed().eval(), RepairedImportance("merge", ranking="output"), name="first")
    assert found.shape == (6,) and bool((found > 0).all())


def test_what_cannot_be_followed_is_an_error():
    with pytest.raises(DFPCError, match=r"^ranking must be one of output, expected, not 'best'\.$"):
        RepairedImportance(ranking="best")
    with pytest.raises(
        RepairError, match=r"^how='mean' looks at no covariances; choose one of merge, synthetic, calibrate\.$"
    ):
        RepairedImportance("mean")
    model = net("nothing")
    with torch.no_grad():
        model[0].weight.mul_(1e30)
    model[1] = nn.Identity()
    with pytest.raises(
        RepairError,
        match=r"^'4' is given values that are not finite, or whose squares are not, so that its channels cannot be compared\.",
    ):
        scores(model, RepairedImportance("merge"))


CALLS: list[int] = []


class Tokens(nn.Module):
    """Takes no images, and counts its forwards."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Embedding(20, 16), nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, x):
        CALLS.append(1)
        return self.c(self.b(self.a(x)).relu())


def test_models_that_take_no_images_are_not_run_for_covariances():
    """`DFPCImportance` scores them, as it does where noise is not possible."""
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randint(0, 20, (2, 5))
    counts, removed = [], []
    for importance in (RepairedImportance("merge"), dfpc.DFPCImportance("expected")):
        CALLS.clear()
        removed.append(dfpc.prune(model, x, "macs=0.8", importance=importance).removed)
        counts.append(len(CALLS))
    assert counts[0] == counts[1] and removed[0] == removed[1]


def test_a_repair_does_not_take_over_what_placeholders_tell():
    """The graph keeps the shapes of the example inputs alone; vectors are no noise, so the repair measures them itself."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 6)).eval(), torch.randn(200, 12)
    ranking = RepairedImportance("merge", ranking="output")
    result = dfpc.prune(model, x, "macs=0.6", importance=ranking, repair="merge")
    before, after = result.repair.output_error
    assert after < 0.8 * before
    assert "On the example inputs, the squared error of the outputs went from" in result.repair.summary
    apart = dfpc.repair(dfpc.prune(model, x, "macs=0.6", importance=ranking).model, model, x, "merge")
    assert torch.equal(result.model[2].weight, apart.model[2].weight)
