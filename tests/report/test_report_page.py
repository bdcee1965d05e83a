"""The HTML page of a run: what it holds, what it leaves out, and that nothing in a record can break it."""

import copy
import itertools
import re
import sys
from pathlib import Path

import pytest
import torch
from page_reader import PageReader
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import DFPCError, MissingDependencyError
from dfpc_plugin.files import OutputError
from dfpc_plugin.finetuning import FinetuneSettings, ScheduleSettings
from dfpc_plugin.record import RunRecord
from dfpc_plugin.report import page as page_module
from dfpc_plugin.report.page import ReportError, render_report, write_report
from page_records import large_record, small_record

ALL = [
    "figures",
    "accuracy",
    "exports",
    "tradeoff",
    "widths",
    "saliency",
    "protected",
    "repair",
    "finetuning",
    "notes",
    "recipe",
    "provenance",
]
STYLE = Path(page_module.__file__).parent / "templates" / "style.css"
EVIL = "<script>alert('x')</script>&\"<b>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def small():
    return PageReader(render_report(small_record()))


@pytest.fixture(scope="module")
def large():
    return PageReader(render_report(large_record()))


def test_every_section_is_there_in_order(small):
    assert small.sections == ALL
    assert [attrs["href"] for attrs in small.all("a")] == [f"#{name}" for name in ALL]


@pytest.mark.parametrize("make", [small_record, large_record, dict])
def test_elements_nest_and_ids_are_unique(make):
    reader = PageReader(render_report(make()))
    assert reader.breaches == []
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in reader.elements:
        for name in attrs.get("aria-labelledby", "").split():
            assert name in ids


@pytest.mark.parametrize("make", [small_record, large_record])
def test_nothing_is_fetched(make):
    page = render_report(make())
    assert "http" not in page and "//" not in page.replace("</", "")
    assert "url(" not in page.replace("url(#hatch)", "") and "@import" not in page
    for tag, attrs in PageReader(page).elements:
        assert "src" not in attrs and tag not in ("link", "img", "iframe", "object")
        assert attrs.get("href", "#").startswith("#")


def test_accessible(large):
    assert large.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in large.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for attrs in large.all("th"))
    for attrs in large.all("svg"):
        if attrs.get("role") == "img":
            assert attrs.get("aria-label") or attrs.get("aria-labelledby")
        else:
            assert attrs.get("aria-hidden") == "true" or attrs.get("width")  # a key's picture, in a hidden list
    assert small_charts(large) >= 4


def small_charts(reader):
    return sum(1 for attrs in reader.all("svg") if "aria-labelledby" in attrs)


def colours(block):
    return {name: value.lstrip("#") for name, value in re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_in_dark():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(), flags=re.DOTALL)[:2]
    for block in (light, dark):
        palette = colours(block)
        for front in ("ink", "soft", "kept", "gone"):
            for back in ("paper", "raised"):
                bright, dim = sorted((luminance(palette[front]), luminance(palette[back])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{front} on {back}"


def test_large_figures_and_tables_say_what_the_record_says(small):
    for said in (
        "cifar/resnet56",
        "Asked for macs=0.6, reached macs=0.5981.",
        "75.1 M",
        "59.8% of 125 M",
        "512 k",
        "1.42\N{MULTIPLICATION SIGN}",
        "4.31 ms after 6.10 ms in PyTorch",
        "92.96%",
        "93.41% before, \N{MINUS SIGN}0.45 points",
        "125 485 706",
        "75 054 000",
        "34 of 80 channels (42.5%) were removed, ranked by DFPCImportance",
        "3.45 MB",
        "2.10 MB",
        "2.50 ms",
        "Is an output of the model",
        "val.zip, 10 000 images",
        "Repaired by synthetic. The squared error of the outputs went from 41.0% to 2.30% of their variance.",
        "Images match the statistics of BatchNorm to within 3%.",
        "Run on 2026-01-01 12:00 UTC, in 5 min 56 s.",
    ):
        assert said in small.text, said


def test_long_lists_are_folded_and_short_ones_are_not(small, large):
    assert len(small.all("details")) == 1  # the whole recipe, below what differs from the defaults
    assert len(large.all("details")) >= 15
    assert len(large.all("tr")) > 380  # every layer has its row all the same


@pytest.mark.parametrize(
    "name",
    [
        "prune",
        "layers",
        "saliency",
        "protected",
        "evaluations",
        "curve",
        "finetune",
        "recipe",
        "versions",
        "machine",
        "seconds",
        "created",
        "model",
        "asked",
    ],
)
@pytest.mark.parametrize("null", [True, False])
def test_what_is_absent_is_left_out(name, null):
    record = small_record()
    if null:
        record[name] = None
    else:
        del record[name]
    gone = {
        "prune": {"repair", "notes"},
        "saliency": {"saliency"},
        "protected": {"protected"},
        "evaluations": {"accuracy"},
        "curve": {"tradeoff"},
        "finetune": {"finetuning"},
        "recipe": {"recipe"},
    }.get(name, set())
    assert PageReader(render_report(record)).sections == [section for section in ALL if section not in gone]


def test_an_empty_record_is_a_page():
    reader = PageReader(render_report({}))
    assert reader.sections == [] and "A model" in reader.text


def test_each_part_alone_is_a_page():
    for name, part in small_record().items():
        assert PageReader(render_report({name: part})).breaches == []


def test_unknown_keys_are_ignored():
    record = small_record() | {"later": {"what": [1, object()]}}
    record["prune"]["later"] = 1
    assert render_report(record) == render_report(small_record())


def with_texts(value, text):
    """The same with every text replaced, keys included where they are free."""
    if isinstance(value, dict):
        return {key: with_texts(entry, text) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_texts(entry, text) for entry in value]
    return text if isinstance(value, str) else value


def test_texts_are_shown_as_texts():
    record = with_texts(small_record(), EVIL)
    for part in ("seconds", "versions", "machine"):
        record[part] = {f"{EVIL} {key}": value for key, value in record[part].items()}
    record["finetune"]["settings"] = {EVIL: EVIL}
    record["model"]["options"] = {EVIL: [EVIL]}
    page = render_report(record)
    assert len(PageReader(page).all("script")) == 1 and "alert(" in page and "<script>alert" not in page
    assert "<b>{{" not in page and "49" not in PageReader(page).all("title")
    reader = PageReader(page)
    assert reader.breaches == [] and EVIL in reader.text
    assert {tag for tag, _ in reader.elements} <= {tag for tag, _ in PageReader(render_report(small_record())).elements}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)


def test_same_record_same_page():
    assert render_report(small_record()) == render_report(copy.deepcopy(small_record()))


@pytest.mark.parametrize(
    "where, value, message",
    [
        (("asked",), 3, "Cannot show this record: asked must be text, not 3."),
        (("prune", "before", "macs"), "many", "prune.before.macs must be a number, not 'many'."),
        (("prune",), [], "prune must be an object, not []."),
        (("layers",), {}, "layers must be a list, not {}."),
        (("layers", 1, "before"), 3, "layers[1].before must be a list, not 3."),
        (("evaluations", 0, "top1"), True, "evaluations[0].top1 must be a number, not True."),
        (
            ("saliency", "couplings", 0, "gone"),
            [99],
            "saliency.couplings[0].gone[0] must be the number of one of the coupling's 16 units, not 99.",
        ),
        (("machine",), {"what": {3}}, "machine.what must be something that JSON can hold, not {3}."),
        (("format",), 2, "it is of format 2, and this version of dfpc_plugin knows format 1; upgrade dfpc_plugin."),
    ],
)
def test_wrong_types_are_told(where, value, message, tmp_path):
    record = small_record()
    place = record
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ReportError) as raised:
        write_report(record, tmp_path / "page.html")
    assert str(raised.value).endswith(message)
    assert isinstance(raised.value, DFPCError)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_no_object():
    with pytest.raises(ReportError, match=r"all of it must be an object, not \[1\]"):
        render_report([1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_was_not_measured(value):
    record = small_record()
    record["finetune"]["history"][5]["loss"] = value
    record["saliency"]["couplings"][0]["scores"][3] = value
    record["prune"]["before"]["macs"] = value
    page = render_report(record)
    assert not re.search(r"\b(nan|inf)\b", page.partition("</style>")[2])
    assert "59.8%" not in PageReader(page).text


def test_zero_and_equal_figures():
    record = {
        "prune": {"before": {"macs": 0, "parameters": 5}, "after": {"macs": 0, "parameters": 0}},
        "saliency": {"couplings": [{"name": "a", "scores": [0.0, 0.0], "gone": [0]}, {"name": "b", "scores": []}]},
        "layers": [{"path": "a", "before": [0, 0], "after": [0, 0]}, {"path": "b", "before": [3, 4], "after": [3, 0]}],
        "evaluations": [{"stage": "before", "top1": 50.0}, {"stage": "pruned", "top1": 50.0}],
        "seconds": {"nothing": 0.0},
    }
    reader = PageReader(render_report(record))
    assert reader.breaches == [] and "1 kept, 1 removed at zero" in reader.text


def test_a_real_run(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()
    before = {path: layer for path, layer in model.named_modules() if hasattr(layer, "weight")}
    result = dfpc.prune(model, torch.randn(1, 3, 12, 12), "macs=0.6", repair="mean")
    after = dict(result.model.named_modules())
    record = {
        "format": 1,
        "asked": "macs=0.6",
        "prune": result.to_json(),
        "layers": [
            {
                "path": path,
                "kind": type(layer).__name__,
                "before": [1, len(layer.weight)],
                "after": [1, len(after[path].weight)],
            }
            for path, layer in before.items()
        ],
    }
    path = write_report(record, tmp_path / "page.html")
    reader = PageReader(path.read_text(encoding="utf-8"))
    assert reader.breaches == []
    assert reader.sections[:2] == ["figures", "widths"] and "repair" in reader.sections
    assert f"{result.before.macs:,}".replace(",", " ") in reader.text
    assert f"{result.after.parameters:,}".replace(",", " ") in reader.text
    changed = [path for path, layer in before.items() if len(layer.weight) != len(after[path].weight)]
    assert changed
    for path in changed:
        assert f"{len(before[path].weight)} → {len(after[path].weight)}" in reader.text


def test_written_whole_over_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_report(small_record(), str(path)) == path
    assert path.read_text(encoding="utf-8") == render_report(small_record())
    with pytest.raises(OutputError, match="there is no directory"):
        write_report(small_record(), tmp_path / "nowhere" / "page.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_without_jinja2(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"'jinja2'.*dfpc-plugin\[report\]"):
        render_report({})


def shown(record):
    return PageReader(render_report(record)).text


def test_the_whole_time_is_not_counted_twice():
    record = {"seconds": {"couplings": 2.0, "saliency": 3.0, "in all": 9.0}, "created": "2026-01-01T12:00:00+00:00"}
    text = shown(record)
    assert "in 9.0 s" in text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "everything else" in text and "in all" not in text
    assert "everything else" not in shown({"seconds": {"couplings": 2.0, "in all": 2.001}})


def test_a_stage_that_came_later_is_added_to_the_whole_time():
    record = RunRecord(seconds={"cut": 2.0, "in all": 3.0})
    record.add_seconds("repair", 4.0)
    record.add_seconds("repair", 1.0)
    assert record.seconds == {"cut": 2.0, "in all": 8.0, "repair": 5.0}


@pytest.mark.parametrize(
    ("before", "after", "columns"), [(None, None, []), (0.5, None, ["Before"]), (0.5, 0.1, ["Before", "After"])]
)
def test_repair_has_columns_for_what_was_measured(before, after, columns):
    layers = [{"name": "conv", "changed": True, "before": before, "after": after}]
    page = render_report({"prune": {"repair": {"method": "merge", "layers": layers}}})
    assert re.findall('<th scope="col" class="number">(.*?)</th>', page) == columns


def test_what_was_not_measured_is_said():
    costs = {
        "before": {"macs": 4},
        "after": {"macs": 2},
        "couplings": [{"name": "a", "layers": ["a"], "before": 2, "after": 1}],
    }
    text = shown({"prune": costs})
    assert "Latency was not measured" in text and "Accuracy was not measured" in text
    assert "neither repaired nor fine-tuned" in text
    for said in ("not measured", "neither"):
        assert said not in shown(small_record())


def test_settings_are_the_differences_from_the_defaults():
    settings = FinetuneSettings(epochs=7, lr=0.5)
    text = shown({"finetune": {"settings": settings.to_json()}})
    assert re.findall(r"(epochs|lr|momentum|warmup_steps|gradient_clip)", text) == ["epochs", "lr"]
    assert "All settings were the defaults." in shown({"finetune": {"settings": FinetuneSettings().to_json()}})
    schedule = ScheduleSettings(share=0.05, final=FinetuneSettings(epochs=3))
    text = shown({"finetune": {"settings": schedule.to_json()}})
    assert "share" in text and "final.epochs" in text and "tuning." not in text and "anchored" not in text


def test_a_recipe_shows_what_differs_and_has_the_rest_folded():
    page = render_report({"recipe": "a: 1\nb: null\n", "changes": "a: 1\n"})
    first, folded = page.split("<details>")[:2]
    assert "<code>a: 1</code>" in first and "b: null" not in first and "b: null" in folded
