"""Prune a trained network by plain Torch-Pruning and a criterion of its own, then make good what that has broken.

    python examples/repair_after_torch_pruning.py

The network is the small one on scanned digits that comes with the package; the repair sees no data but where it says so.
"""

import copy

import torch
import torch_pruning as tp
from torch.utils.data import TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.demo.network import example_input, load_digits, load_network


def main() -> None:
    torch.manual_seed(0)
    digits, x = load_digits(), example_input()
    original = load_network()
    test = TensorDataset(digits.test_images, digits.test_labels)
    print(f"before:     {dfpc.evaluate_model(original, test).top1:.1f} %")

    pruned = copy.deepcopy(original)
    magnitude = tp.importance.GroupMagnitudeImportance()
    tp.MetaPruner(
        pruned, x, magnitude, pruning_ratio=0.4, ignored_layers=[pruned.fc], in_channel_groups={}, out_channel_groups={}
    ).step()
    print(f"pruned:     {dfpc.evaluate_model(pruned, test).top1:.1f} %")

    synthetic = dfpc.RepairSettings("synthetic", count=48, steps=60)  # images made from the network itself
    unlabelled = dfpc.RepairSettings("calibrate", digits.train_images[:48])  # images of the user's, without labels
    for settings in (dfpc.RepairSettings("mean"), dfpc.RepairSettings("merge"), synthetic, unlabelled):
        result = dfpc.repair(pruned, original, x, settings)
        print(f"{settings.method + ':':<11} {dfpc.evaluate_model(result, test).top1:.1f} %")


if __name__ == "__main__":
    main()
