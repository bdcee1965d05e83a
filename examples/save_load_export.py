"""Save a pruned model as plain data, load it without data or tracing, and export it as ONNX and as a program of PyTorch.

    python examples/save_load_export.py

ONNX needs the extra `export`.
"""

import tempfile
from pathlib import Path

import timm
import torch

import dfpc_plugin as dfpc


def main() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()  # a tiny one; pretrained=True for real
    x = torch.randn(1, 3, 64, 64)
    result = dfpc.prune(model, x, "macs=0.6")

    with tempfile.TemporaryDirectory() as directory:
        folder = dfpc.save_pruned(result, Path(directory) / "pruned")
        for file in sorted(folder.iterdir()):
            print(f"{file.name}: {file.stat().st_size:,} bytes")
        manifest = dfpc.read_manifest(folder)
        print("Built as:", manifest.spec.name)

        loaded = dfpc.load_pruned(folder)
        with torch.no_grad():
            print("The same to the last bit:", torch.equal(loaded(x), result.model(x)))

        onnx = dfpc.export_onnx(loaded, x, Path(directory) / "pruned.onnx")  # is run in onnxruntime before it is kept
        print(f"ONNX, opset {onnx.opset}: off by {onnx.max_difference:.0e} at most")
        program = dfpc.export_program(loaded, x, Path(directory) / "pruned.pt2")
        print(f"torch.export: off by {program.max_difference:.0e} at most")


if __name__ == "__main__":
    main()
