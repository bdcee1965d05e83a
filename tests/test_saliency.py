"""BGSC on the models that people have: precisions, layouts, devices, frozen, shared, wrapped, scripted."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from dfpc_plugin import Saliency, bgsc
from dfpc_plugin.errors import DFPCError, NonFiniteScoreError, NonFiniteWeightError

X = torch.ones(1, 3, 16, 16)


def small(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", **kwargs).eval()


def assert_scores_equal(found, expected, rtol):
    assert list(found) == list(expected)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, rtol=rtol, atol=0.0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)])
def test_lower_precision_agrees_with_float64(dtype, rtol):
    model = small().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # the same weights in every precision
    expected = bgsc(model, X.double())
    found = bgsc(model.to(dtype), X.to(dtype))
    assert_scores_equal(found, expected, rtol)
    assert all(scores.dtype == torch.float64 and scores.device.type == "cpu" for scores in found.values())


def test_half_precision_does_not_overflow():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)).half()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(60000.0)
    for scores in bgsc(model, torch.ones(1, 3, 64, 64).half()).values():
        assert torch.isfinite(scores).all() and scores.min() > torch.finfo(torch.float16).max


def test_memory_format_and_training_mode_do_not_matter():
    model = small()
    expected = bgsc(model, X)
    assert_scores_equal(
        bgsc(model.to(memory_format=torch.channels_last), X.to(memory_format=torch.channels_last)), expected, 1e-5
    )
    assert_scores_equal(bgsc(model.train(), X), expected, 1e-5)


def test_frozen_parameters_and_existing_gradients_do_not_matter():
    model = small()
    expected = bgsc(model, X)
    model(X).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    assert_scores_equal(bgsc(model, X), expected, 1e-6)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert_scores_equal(bgsc(model.requires_grad_(False), X), expected, 1e-6)


@pytest.mark.parametrize("inside", [True, False])
def test_automatic_mixed_precision_does_not_matter(inside):
    torch.manual_seed(0)

    class Mixed(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
                return super().forward(x)

    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 1)]
    expected = bgsc(nn.Sequential(*layers), X)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not inside):
        assert_scores_equal(bgsc(Mixed(*layers), X), expected, 1e-6)


def test_scores_sum_over_the_batch():
    model = small().double()
    one, three = bgsc(model, X.double()), bgsc(model, X.double().expand(3, -1, -1, -1))
    assert_scores_equal(three, {name: 3 * scores for name, scores in one.items()}, 1e-9)


def test_a_layer_used_twice_counts_both_uses():
    torch.manual_seed(0)
    first, shared, last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(first, shared, nn.ReLU(), shared, last).double()
    scores = bgsc(model, torch.ones(1, 3).double())
    write = shared.weight.abs().sum(1)
    expected = write * shared.weight.abs().sum(0) + write * last.weight.abs().sum(0)
    torch.testing.assert_close(scores["1"], expected.detach())


def test_the_classifier_is_not_scored():
    model = small()
    scores = bgsc(model, X)
    assert "fc" not in scores and "layer1.0.conv1" in scores
    assert all("fc" not in coupling.feed_in for coupling in scores.couplings)
    assert "fc" in scores.couplings[-1].feed_out


def test_relative_scores_make_every_reader_count_the_same():
    torch.manual_seed(0)
    first, loud, quiet = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.loud, self.quiet = first, loud, quiet

        def forward(self, x):
            x = self.first(x)
            return self.loud(x), self.quiet(x)

    model, x = Fork().double(), torch.ones(1, 3).double()
    relative = bgsc(model, x, ranking="relative")["first"]
    torch.testing.assert_close(relative.mean(), torch.tensor(2.0).double(), msg="one for each reader")
    with torch.no_grad():
        loud.weight *= 1000
    torch.testing.assert_close(bgsc(model, x, ranking="relative")["first"], relative)
    assert bgsc(model, x)["first"].sum() > 100


def test_unknown_rankings_are_refused():
    with pytest.raises(DFPCError, match="ranking must be one of published, relative, expected, output, not 'best'"):
        bgsc(small(), X, ranking="best")


@pytest.mark.parametrize(
    ("path", "value"), [("layer1.0.conv1.weight", float("nan")), ("layer1.0.bn1.running_var", float("inf"))]
)
def test_weights_that_are_not_finite_are_named(path, value):
    model = small()
    with torch.no_grad():
        model.state_dict()[path].view(-1)[:2] = value
    with pytest.raises(NonFiniteWeightError) as error:
        bgsc(model, X)
    assert f"'{path}' holds 2 value(s) that are not finite" in str(error.value)


def test_large_finite_weights_are_not_mistaken_for_infinite_ones():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3e38, -3e38], [1.0, 1.0]]))
    with pytest.raises(NonFiniteScoreError, match="scores of '0' are not finite although its weights are"):
        bgsc(model, torch.ones(1, 2))
    assert torch.isfinite(bgsc(model.double(), torch.ones(1, 2).double())["0"]).all()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 6])
def test_multi_head_attention_scores_its_projections(batch_first, kdim):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.context = nn.Linear(3, 8), nn.Linear(3, kdim or 8)
            self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=kdim, vdim=kdim)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            query, other = self.embed(x), self.context(x)
            return self.head(query + self.attn(query, other, other)[0])

    with torch.no_grad():
        scores = bgsc(Block().eval(), torch.ones(2, 5, 3))
    inputs = ["attn.in_proj_weight"] if kdim is None else [f"attn.{p}_proj_weight" for p in "qkv"]
    assert set(scores) == {"embed", "context", "attn.out_proj", *inputs}
    assert all((value > 0).all() for value in scores.values())
    assert scores[inputs[0]].shape == ((24,) if kdim is None else (8,))
    stream = next(coupling for coupling in scores.couplings if "embed" in coupling.feed_in)
    assert stream.feed_in == ("embed", "attn.out_proj") and "head" in stream.feed_out


def test_transposed_grouped_and_weight_standardised_convolutions():
    from timm.layers import StdConv2d

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2),
        StdConv2d(6, 4, 3),
        nn.Conv2d(4, 2, 1),
    ).double()
    scores = bgsc(model, X.double())
    assert list(scores) == ["0", "2", "4", "5"], "the depthwise convolution belongs to the transform"
    with torch.no_grad():
        model[5].weight += 100  # standardisation removes it
    torch.testing.assert_close(dict(bgsc(model, X.double())), dict(scores), rtol=1e-6, atol=0.0)


def test_recurrent_layers_are_read_and_written():
    class Sequence(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.embed = nn.Linear(3, 4)
            self.rnn = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(10, 2)

        def forward(self, x):
            return self.head(self.rnn(self.embed(x))[0])

    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        scores = bgsc(Sequence(kind), torch.ones(2, 6, 3))
        assert {"embed", "rnn.weight_ih_l0", "rnn.weight_ih_l1_reverse"} <= set(scores)
        assert all(len(v) == 5 and (v > 0).all() for k, v in scores.items() if k != "embed")


def test_token_inputs_reach_embeddings():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    scores = bgsc(model, torch.zeros(1, 7, dtype=torch.long))
    torch.testing.assert_close(
        scores["0"].float(), 7 * model[0].weight.abs().amax(0).detach() * model[1].weight.abs().sum(0).detach()
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
        lambda: torchvision.models.video.r3d_18(weights=None),
        lambda: torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None).backbone,
    ],
)
def test_segmentation_video_and_detection_backbones(build):
    model = build().eval()
    x = torch.ones(1, 3, 8, 32, 32) if "Video" in type(model).__name__ else torch.ones(1, 3, 64, 64)
    scores = bgsc(model, x)
    assert len(scores) > 10 and all(torch.isfinite(value).all() for value in scores.values())


def test_nothing_to_prune_is_an_empty_result():
    scores = bgsc(nn.Linear(3, 2), torch.ones(1, 3))
    assert len(scores) == 0 and scores.couplings == () and isinstance(scores, Saliency)


def test_a_coupling_s_score_is_the_sum_over_its_layers():
    scores = bgsc(small(), X)
    coupling = max(scores.couplings, key=lambda coupling: len(coupling.feed_in))
    assert len(coupling.feed_in) > 1
    torch.testing.assert_close(scores.scores(coupling), sum(scores[name] for name in coupling.feed_in))


def test_layers_of_different_widths_have_no_common_score():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.last = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    scores = bgsc(Wide(), torch.ones(1, 3))
    (coupling,) = scores.couplings
    with pytest.raises(DFPCError, match=r"have different widths \[2, 3, 5\]"):
        scores.scores(coupling)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_scores_on_cuda_equal_those_on_the_cpu(name):
    model, x = timm.create_model(name).eval(), torch.ones(1, 3, 224, 224)
    expected = bgsc(model, x)
    assert_scores_equal(bgsc(model.cuda(), x.cuda()), expected, 1e-4)
