"""Prune a timm model with Torch-Pruning and DFPC, without data, and say what came of it.

python examples/prune_with_torch_pruning.py --model resnet50 --pretrained --ratio 0.2
"""

import argparse

import timm
import torch
import torch_pruning as tp

from dfpc_plugin import DFPCImportance


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any model that timm and Torch-Pruning both know")
    parser.add_argument("--pretrained", action="store_true", help="download trained weights")
    parser.add_argument("--ratio", type=float, default=0.2, help="share of the channels to remove (0.2)")
    parser.add_argument("--ranking", default=None, help="expected (the default), relative, coupling-mean or published")
    parser.add_argument("--size", type=int, default=None, help="side of the input image; the model's own by default")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    model = timm.create_model(options.model, pretrained=options.pretrained).eval()
    channels, *size = model.default_cfg["input_size"]
    height, width = (options.size, options.size) if options.size else size
    example_inputs = torch.randn(1, channels, height, width)
    macs, parameters = tp.utils.count_ops_and_params(model, example_inputs)

    pruner = tp.MetaPruner(
        model,
        example_inputs,
        importance=DFPCImportance(options.ranking) if options.ranking else DFPCImportance(),
        global_pruning=True,
        pruning_ratio=options.ratio,
        max_pruning_ratio=0.8,
        round_to=8,
        ignored_layers=[model.get_classifier()],
        # Torch-Pruning fills these in place, and its defaults belong to all pruners of the process.
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()

    macs_left, parameters_left = tp.utils.count_ops_and_params(model, example_inputs)
    with torch.inference_mode():
        shape = tuple(model(example_inputs).shape)
    print(f"{options.model}: output {shape}")
    print(f"  MACs                 {macs / 1e6:9.1f} M -> {macs_left / 1e6:9.1f} M ({macs_left / macs:.0%})")
    print(f"  parameters           {parameters / 1e6:9.2f} M -> {parameters_left / 1e6:9.2f} M", end=" ")
    print(f"({parameters_left / parameters:.0%})")


if __name__ == "__main__":
    main()
