"""Make a model one and a quarter times faster on this machine, measured side by side with the original.

python examples/reach_a_latency.py --speedup 1.25
"""

import argparse

import timm
import torch

import dfpc_plugin as dfpc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any model of timm")
    parser.add_argument("--speedup", type=float, default=1.25, help="how many times faster")
    parser.add_argument("--size", type=int, default=96, help="side of the input image")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(options.model).eval()  # pretrained=True for real
    x = torch.randn(1, 3, options.size, options.size)
    protocol = dfpc.LatencySettings(threads=1, min_run_time=0.5)

    result = dfpc.prune(model, x, f"speedup={options.speedup}", latency=protocol)
    print(
        f"Asked for {options.speedup:g}x, found {result.speedup:.2f}x with {result.after.macs / result.before.macs:.0%} of the MACs"
    )

    # Trust, and measure again: in turns, so that a machine that slows down slows both.
    measured = protocol.measure({"before": model, "after": result.model}, x)
    before, after = measured["before"], measured["after"]
    print(
        f"Measured again: {1e3 * before.median:.1f} ms -> {1e3 * after.median:.1f} ms, {after.speedup_over(before):.2f}x"
    )
    print(f"Spread of single rounds: {after.noise:.0%}")
    for note in result.notes:
        print("Note:", note)


if __name__ == "__main__":
    main()
