"""Prune a trained network hard, and train what is left on labelled images, with the unpruned network as a teacher.

    python examples/finetune_on_digits.py

Needs the extra `finetune`. The network and the scanned digits are those of the demo.
"""

import dataclasses

import torch
from torch.utils.data import TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.demo.network import example_input, load_digits, load_network


def main() -> None:
    torch.manual_seed(0)
    digits, model = load_digits(), load_network()
    train = TensorDataset(digits.train_images, digits.train_labels)  # any map-style data set of pairs does
    val = TensorDataset(digits.test_images, digits.test_labels)
    print("before:    ", dfpc.evaluate_model(model, val))

    pruned = dfpc.prune(model, example_input(), "macs=0.3").model
    print("pruned:    ", dfpc.evaluate_model(pruned, val))

    settings = dfpc.FinetuneSettings(epochs=1, batch_size=32, lr=0.02)
    tuned = dfpc.finetune(pruned, train, val, settings=settings)
    print("fine-tuned:", tuned.evaluation)

    taught = dfpc.finetune(pruned, train, val, settings=dataclasses.replace(settings, distill=0.5), teacher=model)
    print("and taught:", taught.evaluation)


if __name__ == "__main__":
    main()
