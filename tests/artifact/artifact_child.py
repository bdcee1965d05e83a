"""A process that loads artifacts, without pickle and without a network, and says what their models compute.

Run by `artifact_tools.Loader`: every line of the standard input is a request, every line of the standard output an answer.
"""

import json
import pickle
import socket
import sys
import traceback
import warnings


def forbidden(*args, **kwargs):
    raise AssertionError("pickle, torch.load and sockets are not to be used")


def answer(request):
    inputs = list(load_file(request["inputs"]).values())
    model = load_pruned(request["directory"])
    save_file({str(i): t.clone().contiguous() for i, t in enumerate(outputs(model, tuple(inputs)))}, request["outputs"])


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    warnings.simplefilter("ignore")
    import torch
    from safetensors.torch import load_file, save_file

    from dfpc_plugin.artifact import load_pruned
    from zero_cut import outputs

    torch.set_num_threads(int(sys.argv[2]))
    pickle.Unpickler = pickle.load = pickle.loads = torch.load = forbidden
    socket.socket = socket.create_connection = forbidden
    answers, sys.stdout = sys.stdout, sys.stderr  # models may print
    for line in sys.stdin:
        try:
            answer(json.loads(line))
        except BaseException:
            print(json.dumps({"error": traceback.format_exc()}), file=answers, flush=True)
        else:
            print(json.dumps({"error": None}), file=answers, flush=True)
