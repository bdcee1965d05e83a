"""The sweep over the smallest models of timm and torchvision, and the page that is written from it."""

import importlib
import json
import os
import sys
import threading
from pathlib import Path

import pytest
import timm
import torch

SUPPORT = Path(__file__).parents[1] / "examples" / "support"
VERSIONS = {"torch": "2.4.0", "timm": "1.0.9"}


@pytest.fixture
def load(monkeypatch):
    """Import a file of `examples/support` by name, for one test."""
    monkeypatch.syspath_prepend(SUPPORT)
    own = {path.stem for path in SUPPORT.glob("*.py")}
    for name in own & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module
    for name in own & sys.modules.keys():
        del sys.modules[name]


def record(name, backend="dfpc", **facts):
    known = {"name": name, "backend": backend, "versions": VERSIONS, "status": "ok", "error": ""}
    known |= {"params_before": 1000, "params_after": 520, "couplings": 7, "protected": []}
    return known | {"prunable_macs": 0.97, "prunable_parameters": 0.5} | facts


def page(load, *records, **options):
    return load("table").markdown({(r["backend"], r["name"]): r for r in records}, VERSIONS, **options)


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_page_counts_what_prunes_and_names_versions(load):
    ours = [record("a"), record("b", status="timeout"), record("c")]
    text = page(load, *ours, record("b", "torch_pruning"), record("z", "torch_pruning"))
    assert "**2 of 3 models can be pruned; with plain Torch-Pruning, 1 of 1.**" in text
    assert "Measured with torch 2.4.0, timm 1.0.9:" in text
    assert "`z`" not in text, "not measured with this package"


def test_the_page_names_a_date_only_if_it_is_given(load):
    assert "Measured on 2001-02-03 with" in page(load, record("a"), date="2001-02-03")


def test_a_row_has_shares_and_what_plain_torch_pruning_does(load):
    text = page(load, record("a"), record("a", "torch_pruning", params_after=610))
    assert cells(text, "a") == ["`a`", "yes", "7", "97 %", "50 %", "52 %", "", "prunes, 61 % remaining"]


def test_a_row_of_a_failure_has_dashes_for_what_is_not_known(load):
    unknown = dict.fromkeys(["couplings", "prunable_macs", "prunable_parameters", "params_after"])
    fails = record("a", status="trace_failed", **unknown)
    theirs = record("b", "torch_pruning", status="forward_failed", **unknown)
    text = page(load, fails, record("b"), theirs)
    assert cells(text, "a")[1:] == ["no", "-", "-", "-", "fails to find channels", "", "not measured"]
    assert cells(text, "b")[-1] == "breaks the model"


def test_reasons_are_distinct_counted_short_and_do_not_end_the_cell(load):
    reasons = ["writes the output", "is read | <twice> in 'a.b'", "is read | <twice> in 'c'", "much too long " * 20]
    protected = [{"name": "x", "reason": reason, "channels": 3} for reason in reasons]
    text = page(load, record("a", protected=protected))
    cell = cells(text, "a")[6]
    assert cell.startswith(r"is read \| &lt;twice&gt; (2); writes the output (1); much too long ")
    assert cell.endswith("… (1)") and len(cell) < 150


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ({}, "yes"),
        ({"prunable_macs": 0.94}, "partly"),
        ({"status": "too_little"}, "partly"),
        ({"status": "forward_failed", "prunable_macs": None}, "no"),
    ],
)
def test_a_row_says_whether_the_model_prunes(load, facts, answer):
    assert cells(page(load, record("a", **facts)), "a")[1] == answer


def test_reasons_are_in_plain_words_without_those_that_every_model_has(load):
    reasons = [
        "is the model's output",
        "is fixed by the input of torch.conv2d in 'stem'",
        "is combined with a tensor of fixed size in torch.conv2d in 'stem'",
        "is added to a tensor of fixed size by torch.Tensor.add",
        "is read by fixed indices in torch.Tensor.__getitem__ in 'a'",
        "is picked from by positions in torch.Tensor.__getitem__ in 'b'",
        "is new in torch.Tensor.__getitem__",
    ]
    protected = [{"name": "x", "reason": reason, "channels": 3} for reason in reasons]
    cell = cells(page(load, record("a", protected=protected)), "a")[6]
    assert cell == (
        "read by a fixed index (2); added to positions or a constant (1); is new in torch.Tensor.&#95;&#95;getitem&#95;&#95; (1)"
    )


def test_each_library_has_a_table_in_which_every_row_has_all_columns(load):
    text = page(load, record("torchvision/b"), record("a"), record("torchvision/a"))
    timm, torchvision = text.split("\n## ")[1:]
    assert (timm.count("| `"), torchvision.count("| `")) == (1, 2)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}


def test_results_are_read_back_by_version_and_the_last_one_counts(load, tmp_path):
    records, path = load("records"), tmp_path / "there" / "results.jsonl"
    assert records.latest(path) == {}
    for entry in (record("a", status="timeout"), record("a"), record("b") | {"versions": {}}):
        records.append(path, entry)
    found = records.latest(path, VERSIONS)
    assert list(found) == [("dfpc", "a")] and found["dfpc", "a"]["status"] == "ok"


def test_a_sweep_goes_on_where_it_was(load, tmp_path, monkeypatch):
    sweep, asked = load("sweep"), []

    def measure(name, backend):
        asked.append(name)
        return record(name, backend, versions=sweep.versions(), status="ok" if len(asked) > 2 else "timeout")

    monkeypatch.setattr(sweep, "measure", measure)
    path = tmp_path / "results.jsonl"
    assert [r["name"] for r in sweep.sweep(["a", "b"], "dfpc", path)] == ["a", "b"]
    assert [r["status"] for r in sweep.sweep(["b", "c"], "dfpc", path)] == ["timeout", "ok"]
    assert asked == ["a", "b", "c"]
    sweep.sweep(["c", "b"], "dfpc", path, retry=True)
    assert asked == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ([], "trace_failed"),
        ([{"stage": "prune"}], "prune_failed"),
        ([{"stage": "forward"}], "forward_failed"),
        ([{"stage": "forward"}, {"status": "ok"}], "ok"),
    ],
)
def test_a_process_that_dies_has_failed_where_it_was(load, said, status):
    found = load("sweep").as_record("\n".join(["noise", *map(json.dumps, said)]), "died")
    assert (found["status"], found["error"]) == (status, "" if status == "ok" else "died")


def test_the_smallest_and_another_architecture_stand_for_a_file(load):
    models = load("models")
    sizes = {"net_b": (20, 224), "net_a": (10, 224), "net_huge_384": (5, 384), "other_net": (30, 224)}
    listed = [models.Model(name, "net", parameters, image) for name, (parameters, image) in sizes.items()]
    assert [m.name for m in models.choose_timm(listed)] == ["net_a"]
    many = listed + [models.Model(f"net{n}", "net", 100 + n, 224) for n in range(4)]
    assert [m.name for m in models.choose_timm(many)] == ["net_a", "other_net"]


def test_families_of_torchvision_differ_in_more_than_size(load):
    models = load("models")
    listed = "swin_t swin_s swin_v2_t vgg11 vgg11_bn vgg13_bn resnext50_32x4d wide_resnet50_2".split()
    models_of_file = [models.Model(f"torchvision/{name}", "file", n) for n, name in enumerate(listed)]
    chosen = models.choose_torchvision(models_of_file)
    left = [model.name.removeprefix("torchvision/") for model in chosen]
    assert left == ["swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "resnext50_32x4d", "wide_resnet50_2"]


def test_the_list_has_every_file_of_the_timm_it_was_made_with(load):
    content = json.loads((SUPPORT / "models.json").read_text(encoding="utf-8"))
    if content["timm"] != timm.__version__:
        pytest.skip(f"made with timm {content['timm']}")
    assert {file for file in content["files"] if "/" not in file} == set(timm.models.list_modules())


@pytest.mark.parametrize(("seconds", "memory", "status"), [(0, 1e9, "timeout"), (100, 1, "memory")])
def test_what_takes_too_much_is_ended(load, monkeypatch, seconds, memory, status):
    one_model, ended = load("one_model"), threading.Event()
    said = []
    monkeypatch.setattr(one_model, "end", lambda **facts: (said.append(facts["status"]), ended.set()))
    with one_model.limits(seconds, memory):
        assert ended.wait(10)
    assert said[0] == status


def test_an_error_names_the_module_that_it_came_through(load):
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(4, 5)))
    with pytest.raises(RuntimeError) as caught:
        model(torch.ones(1, 2))
    names = {id(module): path for path, module in model.named_modules()}
    assert load("one_model").one_line(caught.value, names).startswith("0.1: RuntimeError: ")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_the_classifier_writes_the_outputs(load, name):
    model = timm.create_model(name)
    assert load("backends").output_layers(model, torch.ones(1, 3, 160, 160)) == {model.get_classifier()}


@pytest.mark.parametrize("backend", ["torch_pruning", "dfpc"])
def test_one_model_is_measured_in_a_process_of_its_own(load, backend):
    found = load("sweep").measure("test_resnet", backend)
    assert found["status"] == "ok", found["error"]
    assert found["params_after"] < found["params_before"] and found["peak_mib"] > 50


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_model_prunes(load, request):
    """Results are kept between runs (`DFPC_SUPPORT_RESULTS`, or pytest's cache); what has failed is measured again."""
    kept = os.environ.get("DFPC_SUPPORT_RESULTS") or request.config.cache.mkdir("support") / "results.jsonl"
    records = load("sweep").sweep(load("models").names(), "dfpc", Path(kept), retry=True)
    assert {r["name"]: f"{r['status']}: {r['error']}" for r in records if r["status"] != "ok"} == {}


def test_the_page_ends_with_models_of_other_libraries(load):
    record = {"name": "a", "status": "ok", "checks": {"saved": "ok"}, "date": "2001-02-03"}
    text = load("table").others([record, {**record, "name": "b", "date": "2001-02-04"}])
    assert text.startswith("\n## Other libraries\n") and "Measured on 2001-02-04.\n\n| Model" in text
    assert "| `a` |" in text and text.endswith("third_party.py\n```\n")
