"""Prune a timm model to half of its MACs, without data, and see which layers have paid for it.

python examples/prune_to_a_budget.py --model resnet18 --target "macs=0.5, params=0.6"
"""

import argparse

import timm
import torch

import dfpc_plugin as dfpc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any model of timm")
    parser.add_argument("--pretrained", action="store_true", help="download trained weights")
    parser.add_argument("--target", default="macs=0.5", help="budgets, joined by commas")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(options.model, pretrained=options.pretrained).eval()
    example_inputs = torch.randn(1, *model.default_cfg["input_size"])

    result = dfpc.prune(model, example_inputs, options.target)
    print(result)  # asked for, reached, and what has gone where

    stays = [coupling for coupling in result.couplings if coupling.after == coupling.before]
    print(f"Untouched: {len(stays)} of {len(result.couplings)} couplings")
    with torch.inference_mode():
        print("Output:", tuple(result.model(example_inputs).shape))


if __name__ == "__main__":
    main()
