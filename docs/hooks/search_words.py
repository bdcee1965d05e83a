"""Other words for what a page is about, in the search index: American spellings and common synonyms.

The words stand in a hidden paragraph at the end of the page's opening. The search indexes it; nobody reads it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import codespell_lib

_SYNONYMS = {
    "MACs": "FLOPs multiply-accumulates operations compute GMACs GFLOPs",
    "latency": "speed milliseconds ms inference time benchmark throughput",
    "coupling": "group channel group dependency dependency graph",
    "repair": "recover restore compensate finetune-free weight reconstruction bias correction",
    "fine-tune": "finetune retrain training",
    "fine-tuning": "finetuning retraining",
    "tutorial": "notebook Jupyter Colab ipynb",
    "quantise": "quantize quantization int8 8-bit",
    "quantisation": "quantization int8 8-bit",
    "target": "budget sparsity ratio",
    "recipe": "config configuration YAML",
    "ONNX": "onnxruntime deploy TensorRT OpenVINO",
    "optimiser": "optimizer SGD Adam learning rate",
    "remaining": "kept left",
    "saved model": "artifact checkpoint safetensors",
}
"""What a reader may type, by a word of the page; in the order of this table."""


def on_page_content(html: str, page: Any, **kwargs: Any) -> str:
    """Add the words; called by MkDocs for every page once it is HTML."""
    words = other_words(re.sub(r"<[^>]*>", " ", html), tutorial=page.file.src_uri.startswith("tutorials/"))
    if not words:
        return html
    opening, heading, rest = html.partition("<h2")  # behind what the page opens with, which results show first
    return f'{opening}<p hidden class="search-words">Also known as: {", ".join(words)}</p>\n{heading}{rest}'


def other_words(text: str, *, tutorial: bool = False) -> list[str]:
    """List American spellings of the British words of a text, and synonyms of its terms, each once and sorted."""
    british = spellings()
    found = {american for word in set(re.findall(r"[a-z]+", text.lower())) for american in british.get(word, ())}
    for term, synonyms in _SYNONYMS.items():
        if re.search(rf"\b{re.escape(term)}", text, re.IGNORECASE) or (tutorial and term == "tutorial"):
            found.update(synonyms.split())
    return sorted(found, key=str.lower)


@cache
def spellings() -> dict[str, tuple[str, ...]]:
    """Return American spellings by the British one, as codespell's dictionary has them."""
    path = Path(codespell_lib.__file__).with_name("data") / "dictionary_en-GB_to_en-US.txt"
    pairs = (line.split("->") for line in path.read_text(encoding="utf-8").splitlines() if "->" in line)
    return {british: tuple(word.strip() for word in found.split(",") if word.strip()) for british, found in pairs}
