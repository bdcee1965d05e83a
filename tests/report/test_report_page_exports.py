"""The report's section of exported files."""

from page_reader import PageReader

from dfpc_plugin.report.page import render_report
from page_records import small_record

FILES = [
    {
        "kind": "ONNX", "path": "model.onnx", "bytes": 1_946_281, "max_difference": 2e-7, "same_predictions": 1.0,
        "latency_ms": {"torch": 4.0, "onnxruntime": 2.0},
    },
    {
        "kind": "ONNX, int8", "path": "model-int8.onnx", "bytes": 563_330, "max_difference": 0.0392,
        "same_predictions": 0.9375, "latency_ms": {"float32": 2.0, "int8": 1.25}, "method": "static", "images": 48,
        "compared": 16, "images_from": "synthetic images",
    },
]  # fmt: skip


def text_of(record):
    return PageReader(render_report(record)).text


def test_files_are_listed_with_their_figures():
    text = text_of(small_record() | {"exports": FILES})
    for said in (
        "Exported files", "model-int8.onnx", "563 kB", "1.95 MB", "2.0e\N{MINUS SIGN}07", "3.9%", "93.8%",
        "4.00 ms in PyTorch", "2.00 ms in ONNX Runtime", "1.25 ms in ONNX Runtime, int8",
        "static: ranges measured on 48 of synthetic images; compared on 16 others",
    ):  # fmt: skip
        assert said in text.replace("\N{NARROW NO-BREAK SPACE}", " "), said


def test_without_files_there_is_no_section():
    assert "Exported files" not in text_of(small_record() | {"exports": []})


def test_the_runtime_of_a_latency_is_named():
    record = small_record()
    record["prune"]["after"]["runtime"] = record["prune"]["before"]["runtime"] = "onnxruntime"
    text = text_of(record).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "4.31 ms after 6.10 ms in ONNX Runtime" in text
    assert "Latency was measured in ONNX Runtime with 2 threads" in text
    assert "Latency in ONNX Runtime, median" in text
    assert "latency in ONNX Runtime, ms" in text and "Latency in ONNX RuntimeTop-1" in text


def test_latencies_of_different_runtimes_are_not_set_side_by_side():
    record = small_record()
    record["prune"]["after"]["runtime"] = "onnxruntime"
    text = text_of(record).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "6.10 ms" not in text.partition("Accuracy against")[0] and "Speed-up" not in text
    assert "Latency was measured" not in text


def test_a_speedup_that_is_not_the_ratio_of_the_latencies_is_explained():
    record = small_record()
    note = "The speed-up is the median over rounds"
    assert note not in text_of(record)
    record["prune"]["speedup"] = 1.5
    assert note in text_of(record)


def test_what_was_reached_is_written_in_enough_digits():
    record = small_record()
    record["prune"] |= {"target": {"speedup": 1.5}, "reached": {"speedup": 1.49996}}
    assert "speedup=1.49996" in text_of(record)


def test_the_headline_is_of_the_model_not_of_its_int8_file():
    record = small_record()
    record["evaluations"].append({**record["evaluations"][-1], "stage": "int8", "top1": 49.0})
    assert "93.41% before, \N{MINUS SIGN}0.45 points" in text_of(record)
