"""Every example runs as it is, and says what the list of examples says that it does."""

import importlib
import inspect
import itertools
import json
import re
import runpy
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import dfpc_plugin as dfpc
from dfpc_plugin.demo.network import load_digits, load_network
from dfpc_plugin.files import write_tensors
from dfpc_plugin.models import ModelSpec, build_model
from dfpc_plugin.repairing import METHODS
from image_files import write_zip

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run an example in this process, as a user would, and return what it prints."""

    def run_example(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("COLUMNS", "100")
        with torch.random.fork_rng(devices=[]), dfpc.rule_scope():
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.fixture
def figures(monkeypatch):
    """The module that draws the figures."""
    monkeypatch.syspath_prepend(EXAMPLES / "figures")
    return importlib.import_module("draw")


@pytest.fixture
def paper(monkeypatch):
    """The module that follows the paper's protocol."""
    monkeypatch.syspath_prepend(EXAMPLES / "reproduce")
    return importlib.import_module("paper")


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    return importlib.import_module


def percentages(text):
    return {
        name: float(value)
        for name, value in re.findall(r"^([\w-][\w -]*?): +(?:top-1 )?([\d.]+) ?%", text, re.MULTILINE)
    }


def test_every_script_is_in_the_list_and_the_list_names_nothing_else():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", text))
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*.py")}
    there |= {path.relative_to(EXAMPLES).as_posix() for path in (EXAMPLES / "benchmarks").glob("*_*.py")} - {
        "benchmarks/cifar_resnet.py"
    }
    assert there <= listed
    assert all((EXAMPLES / name).is_file() for name in listed)


def test_every_example_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.stem}"' in text, f"{path.name} has no test"


def test_prune_with_torch_pruning(run):
    text = run("prune_with_torch_pruning", "--size", "64")
    assert "output (1, 1000)" in text
    (left,) = re.findall(r"MACs.*\((\d+)%\)", text)
    assert 40 < int(left) < 90


def test_prune_to_a_budget(run):
    text = run("prune_to_a_budget", "--model", "test_resnet", "--target", "macs=0.5, params=0.6")
    (macs,) = re.findall(r"macs=(0\.4\d+|0\.5)\b(?!.*macs)", text.splitlines()[0])
    assert 0.47 < float(macs) <= 0.5
    assert re.search(r"^Untouched: \d+ of \d+ couplings$", text, re.MULTILINE)
    assert "Output: (1, 1000)" in text


def test_prune_vit_heads(run):
    text = run("prune_vit_heads")
    before, after = map(int, re.findall(r"^Heads: (\d+) -> (\d+)$", text, re.MULTILINE)[0])
    assert (before, after) == (24, 15)
    counts = [(int(heads), int(rows)) for heads, rows in re.findall(r"(\d+) heads of 64, qkv \((\d+), 384\)", text)]
    assert sum(heads for heads, _ in counts) == after
    assert all(rows == 3 * 64 * heads for heads, rows in counts)
    assert "Output: (1, 1000)" in text


@pytest.mark.slow
def test_reach_a_latency(run):
    text = run("reach_a_latency", "--speedup", "1.2", "--size", "64")
    (found,) = re.findall(r"found ([\d.]+)x", text)
    assert float(found) > 1.15
    assert re.search(r"Measured again: [\d.]+ ms -> [\d.]+ ms, [\d.]+x", text)


def test_repair_after_torch_pruning(run):
    left = percentages(run("repair_after_torch_pruning"))
    assert list(left) == ["before", "pruned", "mean", "merge", "synthetic", "calibrate"]
    assert left["before"] > 98 and left["pruned"] < 50
    assert left["pruned"] < min(left["mean"], left["merge"]) < min(left["synthetic"], left["calibrate"])
    assert left["synthetic"] > 90


@pytest.mark.slow
def test_save_load_export(run):
    pytest.importorskip("onnxruntime")
    text = run("save_load_export")
    assert "The same to the last bit: True" in text
    for name in ("config.json", "manifest.json", "model.safetensors"):
        assert re.search(rf"^{name}: [\d,]+ bytes$", text, re.MULTILINE)
    differences = [float(value) for value in re.findall(r"off by (\S+) at most", text)]
    assert len(differences) == 2 and max(differences) < 1e-4


def test_rule_for_own_operator(run):
    text = run("rule_for_own_operator")
    assert "Not registered: torch.special.bessel_j0, called by 1" in text
    assert "Registered: Saliency(2 layers, 24 channels, 2 couplings)" in text
    change, bound = map(float, re.findall(r"Largest change seen ([\d.]+), bound ([\d.]+)", text)[0])
    assert 0 < change <= bound
    before, after = map(int, re.findall(r"Pruned: (\d+) -> (\d+) channels", text)[0])
    assert 0 < after < before == 16


def test_finetune_on_digits(run):
    pytest.importorskip("accelerate")
    left = percentages(run("finetune_on_digits"))
    assert left["pruned"] < 50 < 90 < min(left["fine-tuned"], left["and taught"])


def test_figures_are_those_that_the_script_draws(figures, tmp_path):
    """Drawn anew from the same data, every figure of the documentation says the same."""
    figures.main(tmp_path)
    kept = ROOT / "docs" / "assets" / "figures"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in kept.iterdir())
    for path in tmp_path.iterdir():
        assert _skeleton(path.read_text("utf-8")) == _skeleton((kept / path.name).read_text("utf-8")), (
            f"draw {path.name} anew"
        )


def test_drawing_twice_gives_the_same_bytes(figures, tmp_path):
    for name in ("first", "second"):
        figures.main(tmp_path / name, only=("coupling", "accuracy-macs"))
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_figures_have_text_and_say_what_they_show():
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md"))
    for path in (ROOT / "docs" / "assets" / "figures").glob("*.svg"):
        text = path.read_text("utf-8")
        assert "<text" in text and 'role="img" aria-label="' in text
        uses = re.findall(rf"!\[(.*?)\]\(assets/figures/{re.escape(path.name)}#only-(light|dark)\)", pages, re.DOTALL)
        assert uses, f"no page shows {path.name}"
        assert all(len(words) > 40 and kind in path.name for words, kind in uses)


def _skeleton(svg):
    """Text of a figure, as other versions of matplotlib write it too; coordinates may differ in their last digits."""
    return re.findall(r">([^<>]+)</(?:text|tspan|title)>", svg)


def accuracies():
    """Cells of the page on accuracy: by network, criterion and repair, one text for each budget."""
    page = (ROOT / "docs" / "accuracy.md").read_text("utf-8")
    found = {}
    for section in page.split("\n## ")[1:]:
        title, *rows = (line for line in section.splitlines() if line and not line.startswith("| ---"))
        header, *lines = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in rows if line.startswith("|")
        )
        for line in lines:
            for repair, cell in zip(header[1:], line[1:], strict=True):
                found[title.partition(",")[0], line[0], repair.strip("`")] = cell.split(" / ")
    return page, found


def test_measured_figures_are_those_of_the_tables():
    """What is drawn is what the page on accuracy says."""
    content = json.loads((EXAMPLES / "figures" / "data" / "accuracy-macs.json").read_text("utf-8"))
    _, cells = accuracies()
    shares = [0.9, 0.8, 0.7, 0.5]
    for point in content["points"]:
        label = "Default of prune" if point["criterion"] == "dfpc" else point["label"]
        own = cells["ResNet-56", label, {"bare": "none"}.get(point["repair"], point["repair"])]
        told = own[shares.index(round(1 / point["speedup"], 2))]
        assert float(told.strip("*")) == pytest.approx(point["top1"], abs=0.051), point
    assert len(content["points"]) == 28


def test_the_page_on_accuracy_counts_its_own_cells():
    """How often the default leads, among those cases that have at least two other criteria."""
    page, cells = accuracies()
    networks, repairs = ({key[position] for key in cells} for position in (0, 2))
    led = dict.fromkeys(repairs, (0, 0))
    for network, repair in itertools.product(networks, repairs):
        rows = {key[1]: own for key, own in cells.items() if (key[0], key[2]) == (network, repair)}
        for position in range(4):
            known = {
                name: own[position]
                for name, own in rows.items()
                if len(own) > 1 and own[position].strip("*") not in "-?"
            }
            if "Default of prune" in known and len(known) > 2:
                wins, cases = led[repair]
                led[repair] = wins + known["Default of prune"].startswith("**"), cases + 1
    repaired = [
        sum(pair) for pair in zip(*(led[repair] for repair in ("merge", "synthetic", "calibrate")), strict=True)
    ]
    assert "in {} of {} cases** of a".format(*repaired) in " ".join(page.split())
    assert "the default leads in {} of {} cases.".format(*led["none"]) in " ".join(page.split())
    wins, cases = led["mean"]
    assert f"- `mean`, {cases - wins} of {cases} cases:" in page


@pytest.mark.slow
def test_the_paper_trains_what_it_has_no_weights_for_and_does_so_once(paper, tmp_path):
    pytest.importorskip("accelerate")
    names = [f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "abcd" for number in range(32)]
    images = write_zip(tmp_path / "images.zip", names)
    latency = dfpc.LatencySettings(threads=1, batch_size=1, min_run_time=0.01)
    arguments = {
        "network": "cifar/resnet20", "train": True, "data": str(images), "criteria": ("random",), "coupled": (True,),
        "speedups": (1.2,), "drops": (90.0,), "step": 0.2, "latency": latency, "epochs": 2,
    }  # fmt: skip
    paper.main(tmp_path / "out", **arguments)
    written = tmp_path / "out" / "weights.safetensors"
    content, rows = written.read_bytes(), json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["rows"]
    assert [row["stop"] for row in rows] == ["", "1.2x fewer MACs", "90 points lost"]
    assert rows[2]["channels_left"] < rows[1]["channels_left"] < 1
    paper.main(tmp_path / "out", **arguments)
    assert written.read_bytes() == content


def test_the_papers_protocol_end_to_end(paper, tmp_path, capsys):
    """One row per criterion, kind of channel and stop; a second run computes nothing again, another experiment is refused."""
    model = build_model("cifar/resnet20")
    weights = write_tensors(tmp_path / "weights.safetensors", model.state_dict(), {})
    images = write_zip(
        tmp_path / "images.zip", [f"test/{kind}/{number}.png" for kind in "abcdefghij" for number in range(2)]
    )
    latency = dfpc.LatencySettings(threads=1, batch_size=1, min_run_time=0.01)
    arguments = {
        "network": "cifar/resnet20", "weights": weights, "data": str(images), "criteria": ("l1", "random"), "speedups": (1.2,),
        "drops": (), "step": 0.1, "latency": latency,
    }  # fmt: skip
    paper.main(tmp_path / "out", **arguments)
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    rows = content["rows"]
    assert [(row["criterion"], row["coupled"]) for row in rows] == [
        ("", True), ("l1", True), ("l1", False), ("random", True), ("random", False)
    ]  # fmt: skip
    assert all(row["macs_fewer"] == pytest.approx(1.2, abs=0.1) and row["macs_fewer"] >= 1.2 for row in rows[1:])
    assert text.startswith("cifar/resnet20, unpruned ...\n1 of 4: L1 (TP), 1.2x fewer MACs ...\n"), (
        "each is told before it begins"
    )
    assert "2 of 4: L1 (TP), 1.2x fewer MACs, uncoupled only ...\n" in text
    assert "unpruned" in text and "uncoupled" in text
    assert (tmp_path / "out" / "results.csv").read_text("utf-8").count("\n") == 6
    assert "uncoupled only" in (tmp_path / "out" / "curve.svg").read_text("utf-8")

    paper.main(tmp_path / "out", **arguments)
    assert capsys.readouterr().out.startswith("1 of 4: L1 (TP), 1.2x fewer MACs: known\n")
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == content
    with pytest.raises(SystemExit, match=r"another experiment .*seed: 0 there, 1 here"):
        paper.main(tmp_path / "out", **arguments, seed=1)
    with pytest.raises(SystemExit, match="one of the two"):
        paper.main(tmp_path / "other", **(arguments | {"train": True}))


def test_training_writes_a_network_that_the_demo_can_load(tmp_path, capsys, benchmark):
    path, generator, threads = tmp_path / "weights.safetensors", torch.get_rng_state(), torch.get_num_threads()
    benchmark("train_on_digits").main(path, epochs=1)
    digits = load_digits()
    reached = dfpc.evaluate_model(load_network(path), TensorDataset(digits.test_images, digits.test_labels)).top1
    assert reached > 15  # one epoch out of thirty; chance is 10
    assert f"{reached:.2f} %" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [path]


def test_images_and_weights_for_the_benchmarks_are_prepared(tmp_path, benchmark):
    """Photographs become squares under their own folders, and a checkpoint of a trainer the weights of a network."""
    prepare = benchmark("prepare_data")
    for name, size in {"n01/b.png": (300, 280), "n01/a.jpg": (260, 400), "n02/c.JPEG": (500, 256)}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "teal").save(tmp_path / "photos" / name)
    prepare.photographs(tmp_path / "photos", tmp_path / "sample.zip", per_class=1)
    with zipfile.ZipFile(tmp_path / "sample.zip") as archive:
        assert archive.namelist() == ["n01/a.jpg", "n02/c.jpg"]
        assert Image.open(archive.open("n02/c.jpg")).size == (256, 256)

    model = build_model(ModelSpec("cifar/resnet20"))
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}
    torch.save(wrapped, tmp_path / "resnet20.th")
    prepare.main(tmp_path, checkpoints={"resnet20": tmp_path / "resnet20.th"})
    found = load_file(tmp_path / "resnet20_cifar10_jpeg.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_the_table_of_accuracies_has_all_repairs_by_default(benchmark):
    """Its command on the pages names none."""
    main = benchmark("accuracy_table").main
    assert set(inspect.signature(main).parameters["repairs"].default) == set(METHODS)


def test_the_table_of_accuracies_marks_the_best_of_each_budget_and_repair(benchmark, tmp_path, capsys):
    """Within one standard error, here of 5 points; what failed and what was not measured have signs of their own."""
    figures = {
        ("auto", "none", 0): (0.5, 0.3), ("magnitude", "none", 0): (0.4, 0.27), ("lamp", "none", 0): (None, None),
        ("random", "none", 0): (0.1, 0.2), ("random", "none", 1): (0.3, 0.1), ("auto", "merge", 0): (0.7,),
    }  # fmt: skip
    path = tmp_path / "found.jsonl"
    with path.open("w") as file:
        for (criterion, repair, seed), values in figures.items():
            for macs, value in zip((0.9, 0.5), values, strict=False):
                known = {"error": "no batch norm"} if value is None else {"accuracy": value, "seconds": 1.0}
                record = {"network": "vit", "macs": macs, "criterion": criterion, "repair": repair, "seed": seed}
                file.write(json.dumps(record | {"base": 0.9, "images": 100} | known) + "\n")
    benchmark("accuracy_table").main(tmp_path, results=path, table=True)
    assert capsys.readouterr().out == (
        "\n## vit\n\n90.0 % of 100 images before pruning (standard error 3.0). Accuracy in % at 0.9 / 0.5 of the MACs:\n\n"
        "| Criterion | none | `merge` |\n| --- | --- | --- |\n"
        "| Default of prune | **50.0** / **30.0** | **70.0** / ? |\n"
        "| Magnitude (TP) | 40.0 / **27.0** | ? |\n"
        "| LAMP (TP) | - | ? |\n"
        "| Random (TP) | 20.0 / 15.0 | ? |\n\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"only": "mobile*"},
            "--only mobile* matches none of the networks; there are lite0, lite1, resnet20, resnet56, ",
        ),
        ({"only": "lite*"}, "Nothing was measured: '.' does not have what the networks of --only lite* need."),
        ({"table": True}, "Nothing was measured: 'none.jsonl' has no records."),
    ],
)
def test_a_table_of_accuracies_without_rows_says_why(benchmark, options, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        benchmark("accuracy_table").main(Path(), results=Path("none.jsonl"), **options)
    assert str(caught.value).startswith(text)
