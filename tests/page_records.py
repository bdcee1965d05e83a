"""Records of runs for the tests of the page: a small one and a large one, made up, with every section there is."""

import math
import random


def small_record():
    """A ResNet of the CIFAR kind."""
    couplings = [("conv1", 16, 12), ("layer1.0.conv1", 16, 9), ("layer1.1.conv1", 16, 5), ("layer2.0.conv1", 32, 20)]
    return {
        "format": 1,
        "created": "2026-01-01T12:00:00+00:00",
        "seconds": {"couplings": 1.2, "saliency": 0.8, "selection": 0.1, "repair": 14.0, "fine-tuning": 340.0},
        "model": {"name": "cifar/resnet56", "options": {}, "weights": "resnet56.safetensors", "pretrained": False},
        "asked": "macs=0.6",
        "prune": {
            "target": {"macs": 0.6},
            "reached": {"macs": 0.59812},
            "before": {
                "channels": 1008,
                "macs": 125485706,
                "parameters": 855770,
                "score": None,
                "runtime": "torch",
                "latency_ms": 6.1,
                "latency_iqr_ms": 0.12,
                "threads": 2,
            },
            "after": {
                "channels": 700,
                "macs": 75054000,
                "parameters": 512300,
                "score": None,
                "runtime": "torch",
                "latency_ms": 4.31,
                "latency_iqr_ms": 0.09,
                "threads": 2,
            },
            "speedup": 1.42,
            "couplings": [{"name": n, "layers": [n, n + "x"], "before": b, "after": a} for n, b, a in couplings],
            "notes": ["Channels are kept in multiples of 8, as for any target about time."],
            "repair": {
                "method": "synthetic",
                "layers": [
                    {
                        "name": "layer1.0.conv2",
                        "changed": True,
                        "before": 0.31,
                        "after": 0.012,
                        "ridge": 1e-3,
                        "note": "",
                    },
                    {
                        "name": "layer1.1.conv2",
                        "changed": True,
                        "before": 0.92,
                        "after": 0.08,
                        "ridge": 1e-2,
                        "note": "",
                    },
                    {
                        "name": "layer2.0.conv2",
                        "changed": True,
                        "before": 0.05,
                        "after": 0.0004,
                        "ridge": 1e-4,
                        "note": "",
                    },
                    {
                        "name": "fc",
                        "changed": False,
                        "before": None,
                        "after": None,
                        "ridge": None,
                        "note": "has no place for a constant",
                    },
                ],
                "output_error": [0.41, 0.023],
                "notes": ["Images match the statistics of BatchNorm to within 3%."],
            },
        },
        "layers": [{"path": n, "kind": "Conv2d", "before": [16, b], "after": [12, a]} for n, b, a in couplings]
        + [{"path": "fc", "kind": "Linear", "before": [64, 10], "after": [48, 10]}],
        "saliency": {
            "importance": "DFPCImportance",
            "couplings": [scored(random.Random(i), n, b, b - a) for i, (n, b, a) in enumerate(couplings)],
        },
        "protected": [
            {"name": "fc", "layers": ["fc"], "width": 10, "reason": "is an output of the model"},
            {
                "name": "layer3.0.conv2",
                "layers": ["layer3.0.conv2", "layer3.1.conv2"],
                "width": 64,
                "reason": "was to be ignored",
            },
        ],
        "evaluations": [
            {"stage": "before", "data": "val.zip", "top1": 93.41, "top5": 99.8, "loss": 0.231, "count": 10000},
            {"stage": "pruned", "data": "val.zip", "top1": 61.02, "top5": 95.1, "loss": 1.402, "count": 10000},
            {"stage": "repaired", "data": "val.zip", "top1": 90.87, "top5": 99.6, "loss": 0.322, "count": 10000},
            {"stage": "fine-tuned", "data": "val.zip", "top1": 92.96, "top5": 99.8, "loss": 0.249, "count": 10000},
        ],
        "curve": [
            {"label": "before", "macs": 125485706, "parameters": 855770, "top1": 93.41, "latency_ms": 6.1},
            {"label": "macs=0.8", "macs": 100100000, "parameters": 690000, "top1": 92.8, "latency_ms": 5.2},
            {"label": "macs=0.6", "macs": 75054000, "parameters": 512300, "top1": 90.87, "latency_ms": 4.31},
            {"label": "macs=0.5", "macs": 62700000, "parameters": 430000, "top1": 88.1, "latency_ms": 3.9},
            {"label": "macs=0.4", "macs": 50100000, "parameters": 340000, "top1": 80.4, "latency_ms": 3.5},
        ],
        "finetune": {
            "settings": {"epochs": 4, "lr": 0.01, "batch_size": 128, "label_smoothing": 0.0, "mixup": None},
            "history": [
                {
                    "step": 10 * i,
                    "epoch": i / 30,
                    "loss": 0.3 + math.exp(-i / 25) + 0.05 * math.sin(i),
                    "lr": 0.01 * (1 - i / 120),
                    "top1": 90.9 + 2.1 * (1 - math.exp(-i / 30)) if i % 30 == 0 else None,
                    "macs": 75054000,
                }
                for i in range(121)
            ],
            "result": {"top1": 92.96, "epochs": 4, "best_epoch": 3},
        },
        "recipe": "model: cifar/resnet56\nweights: resnet56.safetensors\ntarget: macs=0.6\nrepair:\n  method: synthetic\n"
        "finetune:\n  epochs: 4\n  lr: 0.01\n",
        "changes": "model:\n  name: cifar/resnet56\ntarget: macs=0.6\n",
        "sizes": {"before": 3_450_000, "after": 2_070_000},
        "exports": [
            {
                "kind": "ONNX",
                "path": "model.onnx",
                "bytes": 2_101_234,
                "max_difference": 3.2e-7,
                "same_predictions": 1.0,
                "latency_ms": {"onnxruntime": 2.5, "torch": 4.31},
                "notes": [],
            },
            {"kind": "torch.export", "path": "model.pt2", "bytes": 2_301_234, "max_difference": 0.0},
        ],
        "versions": {
            "dfpc_plugin": "0.2.0",
            "torch": "2.9.0",
            "timm": "1.0.20",
            "torchvision": "0.24.0",
            "python": "3.12.1",
        },
        "machine": {"processor": "AMD EPYC", "device": "cpu", "threads": 2},
    }


def large_record(blocks=(3, 4, 6, 3), widths=(64, 128, 256, 512), copies=4):
    """A residual network of more than 200 couplings, with long names."""
    rng = random.Random(1)
    record = small_record()
    names = [("stem.conv1", 64)]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        for block in range(count * copies):
            names += [(f"layer{stage}.{block}.conv{i}", width * (4 if i == 3 else 1)) for i in (1, 2, 3)]
    layers, couplings, saliency, repaired = [], [], [], []
    for name, width in names:
        after = max(2, int(width * rng.uniform(0.35, 1.0))) if rng.random() < 0.9 else width
        layers.append({"path": name, "kind": "Conv2d", "before": [width, width], "after": [after, after]})
        couplings.append({"name": name, "layers": [name], "before": width, "after": after})
        saliency.append(scored(rng, name, width, width - after))
        error = 10 ** rng.uniform(-2.5, 0)
        repaired.append({"name": name, "changed": True, "before": error, "after": error * 10 ** rng.uniform(-2, -0.2)})
    record["model"]["name"] = "resnet200_of_a_very_long_name.a1_in1k_and_fine_tuned_on_another"
    record["layers"], record["prune"]["couplings"] = layers, couplings
    record["saliency"]["couplings"] = saliency
    record["prune"]["repair"]["layers"] = repaired
    record["protected"] += [
        {
            "name": f"blocks.{i}.attn.qkv",
            "layers": [f"blocks.{i}.attn.qkv", f"blocks.{i}.attn.k"],
            "width": 192,
            "reason": "feeds a product of matrices that no rule can follow",
        }
        for i in range(40)
    ]
    record["prune"]["before"] |= {"macs": 4_089_184_256, "parameters": 25_557_032}
    record["prune"]["after"] |= {"macs": 2_453_510_000, "parameters": 15_300_000}
    return record


def scored(rng, name, units, gone):
    """A coupling whose lowest units are gone, with one at zero."""
    scores = [10 ** rng.gauss(-2, 0.8) for _ in range(units)]
    if gone:
        scores[rng.randrange(units)] = 0.0
    order = sorted(range(units), key=scores.__getitem__)
    return {"name": name, "scores": scores, "gone": sorted(order[:gone])}
