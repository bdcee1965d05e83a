"""The example inputs of a dependency graph are remembered as shapes, without changing what Torch-Pruning does."""

import copy

import torch
import torch_pruning as tp
from torch import nn

from dfpc_plugin.traced_call import traced_call


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


def test_a_graph_knows_the_shape_it_was_traced_with():
    x = torch.randn(2, 3, 9, 7)
    graph = tp.DependencyGraph().build_dependency(net(), x)
    noted = traced_call(graph).example_inputs
    assert noted.shape == x.shape and noted.dtype == x.dtype and noted.untyped_storage().nbytes() <= 8
    by_keyword = tp.DependencyGraph().build_dependency(model=net(), example_inputs=x)
    assert traced_call(by_keyword).example_inputs.shape == x.shape


def test_structure_masks_and_forward_function_are_kept():
    mask = torch.tensor([True, False])

    def forward(model, inputs):
        return model(inputs["x"])

    inputs = {"x": torch.randn(1, 3, 8, 8), "mask": mask, "scale": 2}
    noted = traced_call(tp.DependencyGraph().build_dependency(net(), inputs, forward_fn=forward))
    assert noted.forward_fn is forward
    assert noted.example_inputs["mask"] is mask and noted.example_inputs["scale"] == 2


def test_each_graph_has_its_own_and_copies_keep_it():
    one = tp.DependencyGraph().build_dependency(net(), torch.randn(1, 3, 8, 8))
    two = tp.DependencyGraph().build_dependency(net(), torch.randn(1, 3, 16, 16))
    assert traced_call(one).example_inputs.shape[-1] == 8
    assert traced_call(two).example_inputs.shape[-1] == 16
    assert traced_call(copy.copy(one)) is traced_call(one)
    assert traced_call(tp.DependencyGraph()) is None
