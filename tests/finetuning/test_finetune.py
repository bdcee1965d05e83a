"""Fine-tuning on scikit-learn's digits: it learns, owns nothing of the user's, and takes runs up where they were."""

import copy
import dataclasses
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.data import DataError
from dfpc_plugin.evaluation import evaluate_model
from dfpc_plugin.finetuning import CheckpointError, FinetuneError, FinetuneSettings, finetune, run
from dfpc_plugin.finetuning.checkpoints import Checkpoint, Checkpoints
from digit_runs import INPUTS, SETTINGS, digit_net, train_digits, tuned, val_digits

SHORT = FinetuneSettings(steps=4, batch_size=16, lr=0.05)
OFTEN = dataclasses.replace(SHORT, steps=6, checkpoint_every=2)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 8, 8), 0


class StopHere(Exception):
    """What the tests interrupt a run with."""


def stop_after(count, name):
    """A progress function that raises at the `count`-th message about `name`."""
    left = [count]

    def tell(what, share):
        left[0] -= what == name
        if left[0] < 0:
            raise StopHere

    return tell


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_a_pruned_model_learns_again():
    trained = finetune(digit_net(), train_digits(), settings=FinetuneSettings(epochs=2, batch_size=32, lr=0.05)).model
    pruned = dfpc.prune(trained, INPUTS, "macs=0.6").model
    val = val_digits()
    result = finetune(pruned, train_digits(), val, settings=FinetuneSettings(epochs=1, batch_size=32, lr=0.05))
    bare, after = evaluate_model(pruned, val), evaluate_model(result.model, val)
    assert after.top1 > bare.top1 + 5
    assert (result.evaluation.top1, result.evaluation.top5) == (after.top1, after.top5)
    assert result.evaluation.loss == pytest.approx(after.loss)
    assert not result.model.training
    assert [row["step"] for row in result.history][-1] == result.steps == 1257 // 32
    assert [row["top1"] is not None for row in result.history] == [False] * 3 + [True]
    assert result.history[-1]["epoch"] == 1.0
    assert result.history[0]["loss"] > result.history[-1]["loss"]
    assert str(result).endswith(str(result.evaluation))


def test_everything_of_the_users_stays():
    model = digit_net().train()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    result = finetune(
        model, train_digits(), val_digits(20), settings=dataclasses.replace(SHORT, mixup=0.2, mixed_precision="bf16")
    )
    assert model.training
    assert same_weights(model, before)
    assert all(parameter.grad is None for parameter in [*model.parameters(), *result.model.parameters()])
    assert torch.equal(result.model[0].weight, model[0].weight), "it is frozen"
    assert not torch.equal(result.model[3].weight, model[3].weight)
    assert vars(result.model).keys() == vars(model).keys(), "accelerate leaves nothing behind"
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_runs_of_different_precision_follow_each_other():
    plain = finetune(digit_net(), train_digits(), settings=SHORT).model
    half = finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, mixed_precision="bf16")).model
    again = finetune(digit_net(), train_digits(), settings=SHORT).model
    assert same_weights(plain, again)
    assert not same_weights(plain, half)
    assert torch.allclose(plain[0].weight, half[0].weight, atol=0.05)


def test_an_accelerator_of_the_users_stays():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    try:
        mine = Accelerator(mixed_precision="bf16")
        with pytest.raises(FinetuneError, match="accelerate cannot train with mixed_precision='no' here"):
            finetune(digit_net(), train_digits(), settings=SHORT)
        finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, mixed_precision="bf16"))
        assert mine.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state()


def test_neither_workers_nor_what_was_before_change_anything():
    first = finetune(digit_net(), train_digits(), settings=SHORT).model
    torch.rand(3)
    second = finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, workers=2)).model
    assert same_weights(first, second)
    other = finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, seed=1)).model
    assert not same_weights(first, other)


def test_epochs_go_through_all_images_in_other_orders():
    """A data set that notes what it is asked for."""
    asked = []

    class Noting(TensorDataset):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    data = Noting(torch.randn(12, 4), torch.arange(12) % 3)
    finetune(nn.Linear(4, 3), data, settings=FinetuneSettings(epochs=2, batch_size=4))
    first, second = asked[1:13], asked[13:25]  # the first of all is to see whether data and model fit
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second != list(range(12))


def test_a_teacher_pulls_the_student_towards_itself():
    teacher = finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, steps=60)).model
    images = torch.stack([val_digits(60)[i][0] for i in range(60)])
    distances = []
    for weight in (0.0, 1.0):
        settings = dataclasses.replace(SHORT, steps=40, distill=weight, temperature=2.0)
        student = finetune(
            digit_net(seed=7), train_digits(), settings=settings, teacher=teacher if weight else None
        ).model
        with torch.no_grad():
            distances.append((student(images).softmax(1) - teacher(images).softmax(1)).abs().mean().item())
    assert distances[1] < 0.9 * distances[0]


def test_refusals():
    with pytest.raises(FinetuneError, match=r"distill=0.5 needs a teacher"):
        finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, distill=0.5))
    with pytest.raises(FinetuneError, match="There is a teacher that no one listens to"):
        finetune(digit_net(), train_digits(), settings=SHORT, teacher=digit_net())
    with pytest.raises(
        FinetuneError, match="The training set has 1257 images, and one step takes 2000; give a smaller batch_size"
    ):
        finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, batch_size=2000))
    with pytest.raises(FinetuneError, match="resume=True needs to know where the run was saved"):
        finetune(digit_net(), train_digits(), settings=SHORT, resume=True)
    with pytest.raises(FinetuneError, match=r"train is of the type Endless; give a map-style data set"):
        finetune(digit_net(), Endless(), settings=SHORT)
    with pytest.raises(DataError, match="workers=1000000 is no number of processes for this machine"):
        finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, workers=10**6))
    seven = digit_net()
    seven[-1] = nn.Linear(96, 7)
    with pytest.raises(DataError, match="The data set has 10 classes, the model 7 outputs"):
        finetune(seven, train_digits(), settings=SHORT)


class Few(TensorDataset):
    """Images of which one may have an odd label."""

    def __init__(self, count, label=0):
        super().__init__(torch.zeros(count, 1, 8, 8), torch.arange(count) % 10)
        self.tensors[1][3:4] = label


def told(model, train, val=None):
    """What is raised, and how many steps have been done by then."""
    steps = []
    with pytest.raises(DataError) as caught:
        finetune(model, train, val, settings=SHORT, progress=lambda name, share: steps.append(share))
    return str(caught.value), len([share for share in steps if share > 0])


def test_an_empty_validation_set_is_found_before_training():
    assert told(digit_net(), Few(64), Few(0)) == ("The data set holds no images.", 0)


@pytest.mark.parametrize("label", [99, -1])
def test_labels_without_an_output(label):
    text, _ = told(digit_net(), Few(16, label))
    assert text == f"Image 3 of the training set has the label {label}, and the model 10 outputs."
    images = copy.deepcopy(train_digits())
    images.images.labels = (*images.images.labels[:-1], label)
    assert told(digit_net(), images)[1] == told(digit_net(), Few(16), images)[1] == 0


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = digit_net(norms=False)
    settings = FinetuneSettings(steps=30, batch_size=32, lr=1e4, log_every=5, schedule="constant", checkpoint_every=1)
    with pytest.raises(FinetuneError, match=r"The loss is (nan|inf) at step \d+; give a smaller lr \(it is 10000.0\)"):
        finetune(model, train_digits(), settings=settings, checkpoint=tmp_path)
    assert same_weights(model, digit_net(norms=False))


@pytest.mark.parametrize(("optimizer", "count"), [("sgd", 2), ("sgd", 10), ("adamw", 10), ("lamb", 6)])
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, optimizer, count):
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, lr=0.01, steps=12, checkpoint_every=4, mixup=0.1)
    arguments = {"settings": settings, "checkpoint": tmp_path / "run"}
    whole = finetune(digit_net(), train_digits(), val_digits(50), settings=settings)
    with pytest.raises(StopHere):
        finetune(digit_net(), train_digits(), val_digits(50), progress=stop_after(count, "fine-tuning"), **arguments)
    taken_up = finetune(digit_net(), train_digits(), val_digits(50), resume=True, **arguments)
    assert same_weights(whole.model, taken_up.model)
    assert without_seconds(whole.history) == without_seconds(taken_up.history)
    assert len(list((tmp_path / "run").iterdir())) == 2, "the newest two are kept, and nothing else"
    done = finetune(digit_net(), train_digits(), val_digits(50), resume=True, **arguments)
    assert done.history == taken_up.history
    assert same_weights(done.model, taken_up.model)


def test_what_is_no_checkpoint_of_this_run_is_refused(tmp_path):
    arguments = {"checkpoint": tmp_path / "run", "resume": True}
    finetune(digit_net(), train_digits(), settings=SHORT, checkpoint=tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"holds the checkpoints of a run, the newest checkpoint-0{9}5; pass resume=True"
    ):
        finetune(digit_net(), train_digits(), settings=SHORT, checkpoint=tmp_path / "run")
    with pytest.raises(
        CheckpointError,
        match=r"was started with settings.lr=0.05 and is resumed with settings.lr=0.1; resume it with the",
    ):
        finetune(digit_net(), train_digits(), settings=dataclasses.replace(SHORT, lr=0.1), **arguments)
    with pytest.raises(CheckpointError, match="was started with another model: its structure or weights"):
        finetune(digit_net(seed=1), train_digits(), settings=SHORT, **arguments)
    with pytest.raises(CheckpointError, match="was started with images=1257 and is resumed with images=100"):
        finetune(digit_net(), train_digits().limited(100), settings=SHORT, **arguments)
    finetune(
        digit_net(), train_digits(), settings=dataclasses.replace(SHORT, workers=1, checkpoint_every=2), **arguments
    )
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file; give a directory"):
        finetune(digit_net(), train_digits(), settings=SHORT, checkpoint=tmp_path / "file")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="Cannot write checkpoints to"):
            finetune(digit_net(), train_digits(), settings=SHORT, checkpoint=tmp_path / name)


def test_another_run_with_the_same_checkpoints_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    first = Checkpoints(tmp_path / "c")
    first.open(resume=False)
    with monkeypatch.context() as patch:
        patch.setattr(run, "probe", lambda model, images: pytest.fail("an image was looked at"))
        for tune in (
            finetune,
            lambda model, images, **more: dfpc.prune_and_tune(model, INPUTS, "macs=0.6", images, **more),
        ):
            with pytest.raises(
                CheckpointError, match=r"^'[^']*' is in use: another run saves its checkpoints there; wait for it"
            ):
                tune(digit_net(), train_digits(), checkpoint=tmp_path / "c")
    first.close()
    assert list((tmp_path / "c").iterdir()) == []
    finetune(digit_net(), train_digits(), settings=SHORT, checkpoint=tmp_path / "c")


def test_half_written_checkpoints_are_not_taken(tmp_path, monkeypatch):
    """Writing fails in the middle of the second checkpoint: the first is what counts, and the rest is cleared away."""
    from dfpc_plugin.finetuning import checkpoints

    written, real = [], checkpoints.write_json

    def failing(path, content):
        written.append(path)
        if len(written) == 3:  # of two files each
            raise StopHere
        return real(path, content)

    monkeypatch.setattr(checkpoints, "write_json", failing)
    with pytest.raises(StopHere):
        tuned(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".unfinished")]) == 1
    assert same_weights(tuned(tmp_path).model, tuned().model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".unfinished")]


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1 - (path.suffix == ".json") * 5] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit of the model": lambda place: flipped(place / "model.safetensors"),
    "a bit of the optimiser": lambda place: flipped(place / "optimiser.safetensors"),
    "a bit of the state": lambda place: flipped(place / "run.json"),
    "a bit of the checksums": lambda place: flipped(place / "checksums.json"),
    "another value": lambda place: (place / "run.json").write_text((place / "run.json").read_text().replace("1", "2")),
    "deep": lambda place: (place / "run.json").write_text("[" * 100_000 + "]" * 100_000),
    "checksums of another kind": lambda place: (place / "checksums.json").write_text("[]"),
    "a file that is gone": lambda place: (place / "run.json").unlink(),
    "an empty file": lambda place: (place / "model.safetensors").write_bytes(b""),
    "one in the place of the other": lambda place: (place / "optimiser.safetensors").replace(
        place / "model.safetensors"
    ),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run with two checkpoints that was stopped, and what it ends in."""
    path = tmp_path_factory.mktemp("runs") / "run"
    seen = []

    def stop(name, share):
        seen.append(share)
        if path.exists() and len([each for each in path.iterdir() if each.name.startswith("checkpoint")]) == 2:
            raise StopHere

    with pytest.raises(StopHere):
        finetune(digit_net(), train_digits(), settings=OFTEN, checkpoint=path, progress=stop)
    return path, finetune(digit_net(), train_digits(), settings=OFTEN).model


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(damage, interrupted, tmp_path):
    path, expected = interrupted
    directory = shutil.copytree(path, tmp_path / "run")
    newest = max(directory.glob("checkpoint-*"))
    DAMAGE[damage](newest)
    with pytest.warns(
        UserWarning, match=rf"'.*{newest.name}' is damaged: .* The run goes on from 'checkpoint-\d+', the one before"
    ):
        found = finetune(digit_net(), train_digits(), settings=OFTEN, checkpoint=directory, resume=True)
    assert same_weights(found.model, expected)
    assert [place.name for place in directory.glob("damaged-*/*")] == [newest.name]


def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(interrupted, tmp_path):
    directory = shutil.copytree(interrupted[0], tmp_path / "run")
    for place in directory.iterdir():
        flipped(place / "model.safetensors")
    before = sorted(directory.rglob("*"))
    with pytest.raises(CheckpointError, match=r"is damaged: 'model\.safetensors' is not what was written"):
        finetune(digit_net(), train_digits(), settings=OFTEN, checkpoint=directory, resume=True)
    assert sorted(directory.rglob("*")) == before


def test_a_checkpoint_of_another_version_is_named(interrupted, tmp_path, monkeypatch):
    from dfpc_plugin.finetuning import checkpoints

    monkeypatch.setattr(checkpoints, "_FORMAT", 99)
    with pytest.raises(CheckpointError, match="is of another version of dfpc_plugin"):
        finetune(digit_net(), train_digits(), settings=OFTEN, checkpoint=interrupted[0], resume=True)


def put(content, path, value):
    *way, last = path.split("/")
    for key in way:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("part", "path", "value", "message"),
    [
        (
            "optimiser",
            "state/0.weight/momentum_buffer",
            torch.zeros(3),
            "of the optimiser is not of SGD for this model",
        ),
        ("optimiser", "state/0.weight/momentum_buffer/more", torch.zeros(()), "is not of SGD for this model"),
        ("optimiser", "state/nothing/momentum_buffer", torch.zeros(3), "is not of SGD for this model"),
        ("content", "optimiser/groups/0/weight_decay", [1], "is not of SGD for this model"),
        ("content", "optimiser", {"state": {}}, r"optimiser has no 'groups'\."),
        ("content", "structure/tensors", [], r"is not of this model: it does not list '"),
        ("model", "1.bias", torch.zeros(3), r"is not of this model: '1\.bias' is \(3,\)"),
        ("content", "state/step", "2", r"state\.step must be a whole number, not '2'\."),
    ],
)
def test_a_checkpoint_that_is_whole_but_of_something_else_is_refused(interrupted, tmp_path, part, path, value, message):
    """Checksums are right: somebody has written other things than a run does."""
    kept = Checkpoints(interrupted[0])
    saved = {name: dict(part) for name, part in vars(kept.load(kept.names()[-1])).items()}
    if part == "content":
        put(saved[part], path, value)
    else:
        saved[part][path] = value
    Checkpoints(tmp_path).save(2, Checkpoint(**saved))
    with pytest.raises(CheckpointError, match=message):
        finetune(digit_net(), train_digits(), settings=OFTEN, checkpoint=tmp_path, resume=True)
