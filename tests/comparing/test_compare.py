"""`compare`: a cell is what `prune` does by hand, a stopped run goes on to the same file, and the model is left alone."""

import csv
import importlib
import io
import json
import re

import pytest
import torch
import torch_pruning as tp
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dfpc_plugin as dfpc
from budget_tools import everything, same
from dfpc_plugin.comparing import Cell, CompareError
from dfpc_plugin.comparing.digest import digest_of_images
from dfpc_plugin.comparing.plan import with_gradients
from dfpc_plugin.comparing.scorers import accuracy_scorer
from dfpc_plugin.criteria import CRITERIA, TAYLOR, Criterion
from dfpc_plugin.selection import TargetError
from repair_nets import relative_error, small_resnet


@pytest.fixture(scope="module")
def net():
    """A network, what it is called with, and labelled images of which it gets some right."""
    model, images = small_resnet()
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 5
    return model, images[:1], TensorDataset(images, labels)


compare_module = importlib.import_module("dfpc_plugin.comparing.compare")


def accuracy(model, data):
    images, labels = data.tensors
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).double().mean())


def by_hand(net, cell, images=None):
    """What a cell stands for."""
    model, x, _ = net
    torch.manual_seed(cell.seed)
    settings = dfpc.RepairSettings(cell.repair, images if cell.repair == "calibrate" else None, seed=cell.seed)
    importance = None
    if cell.criterion == "taylor":
        model, importance = with_gradients(model, images, x), TAYLOR.build()
    elif cell.criterion != "auto":
        importance = CRITERIA[cell.criterion].build()
    return dfpc.prune(model, x, cell.budget, importance=importance, repair=settings)


def test_every_cell_is_what_prune_does_by_hand(net):
    model, x, data = net
    images = data.tensors[0][:32]
    result = dfpc.compare(
        model, x, criteria=["auto", "random", "taylor"], budgets=[0.7, "params=0.6"],
        repairs=["none", "merge", "calibrate"], seeds=[0, 3], data=data, images=images,
    )  # fmt: skip
    assert result.unpruned.value == accuracy(model, data) == 0.75
    assert result.unpruned.standard_error == pytest.approx((0.75 * 0.25 / 64) ** 0.5)
    for found in result.cells[::4]:
        hand = by_hand(net, found.cell, images)
        assert found.value == accuracy(hand.model, data), found
        assert found.macs == hand.after.macs / hand.before.macs
        assert found.params == hand.after.parameters / hand.before.parameters
        assert found.standard_error == pytest.approx((found.value * (1 - found.value) / 64) ** 0.5)
        assert found.seconds > 0 and found.error == ""


def test_all_combinations_are_there_and_what_draws_nothing_is_done_once(net):
    model, x, data = net
    result = dfpc.compare(model, x, criteria=["dfpc", "random"], budgets=[0.8, 0.6], seeds=[1, 2], data=data)
    wanted = {
        Cell(criterion, budget, repair, seed)
        for budget in ("macs=0.8", "macs=0.6")
        for criterion in ("dfpc", "random")
        for repair in ("none", "merge")
        for seed in (1, 2)
    }
    wanted -= {Cell("dfpc", budget, "none", 2) for budget in ("macs=0.8", "macs=0.6")}
    cells = [found.cell for found in result.cells]
    assert set(cells) == wanted and len(cells) == len(wanted)
    for found in result.cells:
        assert found.macs <= float(found.cell.budget.removeprefix("macs="))


def test_without_data_it_is_the_error_of_the_outputs_on_the_images(net):
    model, x, data = net
    images = data.tensors[0]
    result = dfpc.compare(model, x, criteria="magnitude", budgets=0.7, images=images)
    assert (result.metric.name, result.source) == ("output_error", "64 of the given images")
    assert result.unpruned.value == 0
    for found in result.cells:
        assert found.value == pytest.approx(relative_error(by_hand(net, found.cell).model, model, images), rel=1e-4)


def test_images_that_are_fitted_to_are_not_measured_on(net):
    model, x, data = net
    result = dfpc.compare(model, x, criteria="auto", budgets=0.7, repairs=["calibrate"], images=data.tensors[0])
    assert result.source == "16 of the given images, to which nothing was fitted"


def test_without_anything_it_is_the_error_on_noise_and_says_so(net):
    model, x, _ = net
    result = dfpc.compare(model, x, criteria=["auto", "random"], budgets=0.6)
    assert result.source == "256 images of noise"
    assert "on 256 images of noise" in str(result).replace("\n", " ")
    bare, merged, *_ = result.cells
    assert 0 < merged.value < bare.value


def test_inputs_that_are_no_images_are_their_own_measure():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    x = torch.randn(20, 6)
    result = dfpc.compare(model, x, criteria="dfpc", budgets=0.5, repairs="none")
    assert result.source == "the example inputs"
    hand = dfpc.prune(model, x, "macs=0.5", importance=dfpc.DFPCImportance(), repair="none")
    assert result.cells[0].value == pytest.approx(relative_error(hand.model, model, x), rel=1e-4)


def test_a_score_of_the_users_own(net):
    model, x, _ = net

    def size(candidate):
        assert not candidate.training
        return -sum(parameter.numel() for parameter in candidate.parameters())

    result = dfpc.compare(model, x, criteria="dfpc", budgets=[0.9, 0.5], repairs="none", score=size)
    assert (result.metric.name, result.source) == ("score", "size")
    assert [found.value for found in result.cells] == [
        -round(found.params * result.unpruned.params) for found in result.cells
    ]


def test_a_score_that_does_not_depend_on_the_model_is_noticed(net):
    model, x, _ = net
    with pytest.warns(
        UserWarning, match=r"score returned 3 for the unpruned model and for all 2 pruned ones\."
    ) as told:
        dfpc.compare(model, x, criteria="dfpc", budgets=[0.9, 0.5], repairs="none", score=lambda candidate: 3)
    assert told[0].filename == __file__


@pytest.mark.parametrize("budget", [0.7, "0.7", "70%", "macs=70%", "7e-1"])
def test_a_number_or_a_percentage_is_a_share_of_the_macs(net, budget):
    model, x, data = net
    [found] = dfpc.compare(model, x, criteria="dfpc", budgets=budget, repairs="none", data=data).cells
    assert found.cell.budget == "macs=0.7" and found.error == ""


def test_a_budget_out_of_reach_is_a_row_with_its_reason(net):
    model, x, data = net
    result = dfpc.compare(model, x, criteria="auto", budgets=[0.7, 0.001], repairs="none", data=data)
    good, bad = result.cells
    assert good.error == "" and bad.value is None
    assert re.match(r"The target macs=0.001 cannot be reached: after removing everything", bad.error)
    assert "Failed at macs=0.001, all: The target macs=0.001 cannot be reached" in str(result).replace("\n", " ")
    assert result.to_csv().splitlines()[2].startswith('auto,macs=0.001,none,0,,,,,,,"The target')


def test_the_model_and_the_generators_are_left_alone(net):
    model, x, data = net
    model.train()
    before, state = everything(model), torch.get_rng_state()
    try:
        dfpc.compare(
            model, x, criteria=["random", "taylor"], budgets=0.7, repairs=["none", "calibrate"], data=data,
            images=data.tensors[0],
        )  # fmt: skip
        assert same(everything(model), before)
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        model.eval()


def timeless(text):
    return re.sub(r', "seconds": [\d.]+', "", text)


@pytest.mark.parametrize("torn", [False, True])
def test_a_stopped_run_goes_on_to_the_same_file(net, tmp_path, monkeypatch, torn):
    model, x, data = net
    asked = {"criteria": ["auto", "random"], "budgets": [0.8, 0.6], "data": data}
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    result = dfpc.compare(model, x, **asked, save_to=whole)
    assert len(whole.read_text().splitlines()) == 1 + len(result.cells) == 9

    calls, prune = [], compare_module.prune

    def stopping(*args, **kwargs):
        calls.append(args[2])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return prune(*args, **kwargs)

    monkeypatch.setattr(compare_module, "prune", stopping)
    with pytest.raises(KeyboardInterrupt):
        dfpc.compare(model, x, **asked, save_to=stopped)
    assert len(stopped.read_text().splitlines()) == 4  # every finished cell is there
    if torn:  # as a process that is killed while it writes leaves it
        with stopped.open("a") as file:
            file.write('{"criterion": "auto", "bud')
    again = dfpc.compare(model, x, **asked, save_to=stopped)
    assert len(calls) == 4 + 5
    assert timeless(stopped.read_text()) == timeless(whole.read_text())
    assert timeless(again.to_json_lines()) == timeless(stopped.read_text())
    assert again.cells == dfpc.CompareResult.read(stopped).cells
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.jsonl", "whole.jsonl"]

    more = dfpc.compare(model, x, **(asked | {"budgets": [0.8, 0.6, 0.7]}), save_to=stopped)
    assert len(calls) == 9 + 4
    assert len(more.cells) == 12


def test_what_is_as_by_default_may_be_said_or_not(net, tmp_path):
    model, x, _ = net
    asked = {"criteria": "dfpc", "budgets": 0.8, "repairs": "none", "save_to": tmp_path / "cells.jsonl"}
    first = dfpc.compare(model, x, **asked, ignored_layers=(), coupled=True)
    assert dfpc.compare(model, x, **asked).cells == first.cells
    with pytest.raises(CompareError, match=r"options is \{\} there and \{'coupled': 'False'\} here"):
        dfpc.compare(model, x, **asked, coupled=False)


def test_a_criterion_of_ones_own_keeps_its_label_on_the_disk(net, tmp_path):
    model, x, _ = net
    own = Criterion("mine", "Mine, squared", dfpc.DFPCImportance)
    path = tmp_path / "cells.jsonl"
    dfpc.compare(model, x, criteria=own, budgets=0.8, repairs="none", save_to=path)
    assert [row.label for row in dfpc.CompareResult.read(path).rows()] == ["Mine, squared"]


def test_a_criterion_that_was_changed_is_measured_again(net, tmp_path):
    """Its cells go by its name, which the old and the new one share."""
    model, x, data = net
    asked = {"budgets": 0.7, "repairs": "none", "data": data}
    for old, new in (
        (tp.importance.GroupMagnitudeImportance(p=2), tp.importance.GroupMagnitudeImportance(p=1)),
        (Criterion("mine", "Mine", CRITERIA["lamp"].build), Criterion("mine", "Mine", CRITERIA["fpgm"].build)),
    ):
        path = tmp_path / "cells.jsonl"
        first = dfpc.compare(model, x, criteria=["dfpc", old], **asked, save_to=path)
        again = dfpc.compare(model, x, criteria=["dfpc", old], **asked, save_to=path)
        changed = dfpc.compare(model, x, criteria=["dfpc", new], **asked, save_to=path)
        assert (first.reused, again.reused, changed.reused) == (0, 2, 1)
        assert again.cells == first.cells
        fresh = dfpc.compare(model, x, criteria=["dfpc", new], **asked)
        assert [cell.value for cell in changed.cells] == [cell.value for cell in fresh.cells]
        assert changed.cells[0] == first.cells[0] and changed.cells[1] != first.cells[1]
        assert dfpc.CompareResult.read(path).cells[-1] == changed.cells[1]
        assert "2 of 2 cells are from an earlier run." in str(again) and "earlier" not in str(first)
        path.unlink()


def test_other_images_labels_or_scores_are_another_comparison(net, tmp_path):
    """Although they are as many, of the same shape, or have the same name."""
    model, x, data = net
    images, labels = data.tensors
    path = tmp_path / "cells.jsonl"
    asked = {"criteria": "magnitude", "budgets": 0.7, "repairs": "none", "save_to": path}

    def scoring(factor):
        def score(candidate):
            return 1.0

        return score if factor == 1 else lambda candidate: 2.0

    one, two = scoring(1), scoring(2)
    two.__name__ = "score"
    for first, second in (
        ({"data": data}, {"data": TensorDataset(images + 1, labels)}),
        ({"data": data}, {"data": TensorDataset(images, labels.roll(1))}),
        ({"data": DataLoader(data, 8)}, {"data": DataLoader(TensorDataset(images + 1, labels), 8)}),
        ({"score": one}, {"score": two}),
        ({"images": images}, {"images": images + 1}),
    ):
        dfpc.compare(model, x, **asked, **first)
        assert dfpc.compare(model, x, **asked, **first).reused == 1
        with pytest.raises(CompareError, match=r"holds another comparison \(data is \w+ there and \w+ here\)"):
            dfpc.compare(model, x, **asked, **second)
        path.unlink()


def test_cells_that_used_other_images_are_measured_again(net, tmp_path):
    model, x, data = net
    images = data.tensors[0]
    asked = {"criteria": ["magnitude", "taylor"], "budgets": 0.7, "repairs": ["none", "calibrate"], "data": data}
    asked |= {"save_to": tmp_path / "cells.jsonl"}
    dfpc.compare(model, x, **(asked | {"criteria": "magnitude", "repairs": "none"}))
    assert dfpc.compare(model, x, **asked, images=images).reused == 1
    assert dfpc.compare(model, x, **asked, images=images).reused == 4
    assert dfpc.compare(model, x, **asked, images=images.flip(0)).reused == 1


def test_images_that_change_with_every_reading_have_no_digest():
    class Noisy:
        def __len__(self):
            return 4

        def __getitem__(self, number):
            return torch.randn(3), 0

    assert digest_of_images(Noisy()) == digest_of_images(iter([1])) == ""
    assert digest_of_images(torch.ones(4, 3)) != digest_of_images(torch.ones(5, 3)) != ""


def test_a_registered_criterion_that_was_changed_is_measured_again(net, tmp_path, monkeypatch):
    model, x, data = net
    asked = {"criteria": "mine", "budgets": 0.7, "repairs": "none", "data": data, "save_to": tmp_path / "cells.jsonl"}

    def broken(group):
        raise RuntimeError("boom")

    monkeypatch.setitem(CRITERIA._entries, "mine", Criterion("mine", "Mine", lambda: broken))
    assert dfpc.compare(model, x, **asked).cells[0].error.startswith("RuntimeError: boom (")
    for build, reused in ((CRITERIA["l1"].build, 0), (CRITERIA["l1"].build, 1), (CRITERIA["magnitude"].build, 0)):
        monkeypatch.setitem(CRITERIA._entries, "mine", Criterion("mine", "Mine", build))
        assert dfpc.compare(model, x, **asked).reused == reused


def test_a_cell_that_failed_is_tried_again(net, tmp_path):
    model, x, data = net
    broken = True

    def own(group):
        if broken:
            raise RuntimeError("no such file")
        return first_norm(group)

    asked = {"criteria": ["dfpc", Criterion("mine", "Mine", lambda: own)], "budgets": 0.7, "repairs": "none"}
    asked |= {"data": data, "save_to": tmp_path / "cells.jsonl"}
    good, failed = dfpc.compare(model, x, **asked).cells
    assert good.value is not None
    assert re.fullmatch(r"RuntimeError: no such file \(.*test_compare\.py, line \d+\)", failed.error)
    broken = False
    result = dfpc.compare(model, x, **asked)
    assert result.reused == 1 and result.cells[0] == good
    assert (
        result.cells[1].value
        == dfpc.compare(model, x, **(asked | {"criteria": first_norm, "save_to": None})).cells[0].value
    )
    assert dfpc.CompareResult.read(asked["save_to"]).cells[-1].error == ""


def test_an_error_in_this_library_is_no_failed_cell(net, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a fault of its own")

    model, x, data = net
    monkeypatch.setattr(compare_module, "prune", broken)
    with pytest.raises(RuntimeError, match="a fault of its own"):
        dfpc.compare(model, x, criteria="dfpc", budgets=0.7, data=data)


def test_a_file_of_another_comparison_is_refused_and_kept(net, tmp_path):
    model, x, data = net
    path = tmp_path / "cells.jsonl"
    asked = {"criteria": "dfpc", "budgets": 0.8, "repairs": "none", "save_to": path}
    dfpc.compare(model, x, **asked, data=data)
    content = path.read_bytes()
    other, _ = small_resnet(seed=1)
    for changed, options, told in (
        (other, {"data": data}, "model is SmallResNet"),
        (model, {}, "metric is accuracy there and output_error here"),
        (model, {"data": data, "round_to": 4}, "options is {} there and {'round_to': '4'} here"),
    ):
        with pytest.raises(CompareError, match=re.escape(told)) as caught:
            dfpc.compare(changed, x, **asked, **options)
        assert "name another file as save_to" in str(caught.value)
    path.write_text("hello\n")
    with pytest.raises(CompareError, match="is no file of a comparison: line 1 cannot be read"):
        dfpc.compare(model, x, **asked, data=data)
    assert path.read_text() == "hello\n" and content.count(b"\n") == 2


def test_a_file_in_use_is_refused(net, tmp_path):
    model, x, _ = net
    path = tmp_path / "cells.jsonl"

    def nested(candidate):
        with pytest.raises(CompareError, match="is in use by another process; wait for it"):
            dfpc.compare(model, x, criteria="dfpc", budgets=0.8, score=len, save_to=path)
        return 1.0

    dfpc.compare(model, x, criteria="dfpc", budgets=0.8, repairs="none", score=nested, save_to=path)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"criteria": "magnitud"}, CompareError, "criteria='magnitud' is none of auto, taylor, dfpc,"),
        ({"criteria": "magnitud"}, CompareError, "did you mean magnitude?"),
        ({"criteria": ["dfpc", "dfpc"]}, CompareError, "criteria: 'dfpc' is given twice; give it once."),
        ({"criteria": [torch.nn.Linear]}, CompareError, "criteria has the class Linear; give an object that scores groups, such as"),
        ({"criteria": [object]}, CompareError, "criteria has the class object; give an object that scores groups, such as"),
        ({"criteria": 5}, CompareError, "criteria has a int; give an object that scores groups"),
        ({"criteria": "no.module:score"}, CompareError, "criteria: 'no.module:score' cannot be imported (ModuleNotFoundError: "),
        ({"criteria": [len, len]}, CompareError, "'len' is given twice; give it once, or tell two of a kind apart by Criterion("),
        ({"criteria": [tp.importance.GroupTaylorImportance]}, CompareError, "'GroupTaylorImportance' needs images;"),
        ({"budgets": []}, CompareError, "budgets: there are none; give at least one."),
        ({"budgets": [0.5, "macs=0.5"]}, CompareError, "budgets: 'macs=0.5' is given twice; give it once."),
        ({"budgets": 1.5}, TargetError, "macs=1.5 is no share"),
        ({"budgets": "mac=0.5"}, TargetError, "did you mean macs?"),
        ({"repairs": "mend"}, CompareError, "repairs='mend' is none of none, mean, merge, synthetic, calibrate;"),
        ({"repairs": "calibrate"}, CompareError, "'calibrate' needs images; pass unlabelled ones as images, or leave it out."),
        ({"criteria": "taylor"}, CompareError, "'taylor' needs images;"),
        ({"seeds": -1}, CompareError, f"seeds[0] must be 0 to {2**63 - 1}, not -1."),
        ({"score": len, "data": [0]}, CompareError, "data and score both say how models are scored; give one of them."),
        ({"score": lambda model: "good"}, CompareError, "score returned 'good', which is no number;"),
        ({"importance": None}, CompareError, "'importance' is no argument of a comparison; give criteria instead."),
        ({"round": 8}, CompareError, "'round' is no argument of a comparison; did you mean round_to?"),
        ({"criterion": "lamp"}, CompareError, "'criterion' is no argument of a comparison; did you mean criteria?"),
        ({"xyz": 8}, CompareError, "'xyz' is no argument of a comparison; there are criteria, budgets, repairs, seeds, coupled,"),
        ({"global_pruning": True}, CompareError, "(Torch-Pruning's pruners have it); leave it out: all couplings are ranked"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_sentence(net, options, error, text):
    model, x, _ = net
    with pytest.raises(error) as caught:
        dfpc.compare(model, x, **options)
    assert text in str(caught.value)


def test_a_criterion_of_ones_own(net):
    model, x, data = net
    own = Criterion("mine", "Mine", CRITERIA["magnitude"].build)
    mine, known = (dfpc.compare(model, x, criteria=c, budgets=0.7, data=data).cells for c in (own, "magnitude"))
    assert [found.value for found in mine] == [found.value for found in known]
    assert {found.cell.criterion for found in mine} == {"mine"}


def first_norm(group):
    """Score by the norm of the weights of the first layer that produces a channel."""
    return group[0].dep.target.module.weight.detach().flatten(1).norm(dim=1)


class FirstNorm:
    def __call__(self, group):
        return first_norm(group)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (first_norm, "first_norm"),
        (FirstNorm, "FirstNorm"),
        (f"{__name__}:FirstNorm", "FirstNorm"),
        (f"{__name__}:first_norm", "first_norm"),
        (tp.importance.LAMPImportance, "LAMPImportance"),
        (tp.importance.GroupMagnitudeImportance(p=1), "GroupMagnitudeImportance"),
        (dfpc.DFPCImportance("relative"), "DFPC, relative"),
    ],
)
def test_what_scores_groups_is_a_criterion(net, own, name):
    """An object, a class or a function, or where to import it from, does what it does as `prune(importance=...)`."""
    model, x, data = net
    [found] = dfpc.compare(model, x, criteria=own, budgets=0.7, repairs="none", data=data).cells
    importance = first_norm if isinstance(own, str) or own is FirstNorm else own
    assert found.cell.criterion == name and found.label == name
    assert found.value == accuracy(dfpc.prune(model, x, "macs=0.7", importance=importance, repair="none").model, data)


def test_own_criteria_that_draw_or_need_gradients_are_known(net):
    model, x, data = net
    own = [tp.importance.RandomImportance(), tp.importance.GroupTaylorImportance()]
    found = dfpc.compare(
        model, x, criteria=own, budgets=0.8, repairs="none", seeds=[0, 1], data=data, images=data.tensors[0]
    )
    assert [(cell.cell.criterion, cell.cell.seed, cell.error) for cell in found.cells] == [
        ("RandomImportance", 0, ""), ("RandomImportance", 1, ""), ("GroupTaylorImportance", 0, "")
    ]  # fmt: skip


def test_two_comparisons_make_one_table(net):
    model, x, data = net
    first = dfpc.compare(model, x, criteria="dfpc", budgets=0.7, data=data)
    second = dfpc.compare(model, x, criteria="random", budgets=0.7, seeds=(0, 1), data=data)
    assert (first + second).cells == first.cells + second.cells
    with pytest.raises(CompareError, match="different models, or measured on different data"):
        first + dfpc.compare(model, x, criteria="dfpc", budgets=0.7)


def test_files_hold_the_same_numbers(net):
    model, x, data = net
    result = dfpc.compare(model, x, criteria=["dfpc", "random"], budgets=[0.7], seeds=(0, 1), data=data)
    cells = result.to_json()["cells"]
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    lines = [json.loads(line) for line in result.to_json_lines().splitlines()]
    assert lines[1:] == cells and len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert {name: value for name, value in row.items() if value} == {n: str(v) for n, v in cell.items()}


def test_a_name_that_leaves_no_room_for_a_lock(net, tmp_path):
    model, x, _ = net
    with pytest.raises(CompareError, match=r"Cannot write .*: File name too long"):
        dfpc.compare(model, x, score=lambda candidate: 1.0, save_to=tmp_path / ("x" * 252))


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b"])
def test_a_file_that_cannot_be_read(name, tmp_path):
    with pytest.raises(CompareError, match="Cannot read"):
        dfpc.CompareResult.read(tmp_path / name)


def test_images_of_a_loader_are_counted_one_by_one(net):
    """Not its batches; a stream of images has no number."""
    _, _, data = net

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data)

    sources = [accuracy_scorer(DataLoader(own, 7), 1, 0, None).source for own in (data, Stream())]
    assert sources == [f"{len(data)} labelled images", "labelled images"]
