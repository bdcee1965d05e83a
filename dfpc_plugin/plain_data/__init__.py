"""Read data from JSON, YAML and keyword arguments strictly, and check it against type hints."""

from dfpc_plugin.plain_data.checking import PlainDataError, checked, did_you_mean, inside, to_plain, wrong
from dfpc_plugin.plain_data.settings import (
    Checked,
    Count,
    Limit,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    at_most,
    matching,
    one_of,
    within,
)
from dfpc_plugin.plain_data.strict_json import checksum, parse_json

__all__ = [
    "Checked",
    "Count",
    "Limit",
    "Natural",
    "NotNegative",
    "PlainDataError",
    "Positive",
    "Seed",
    "Share",
    "at_most",
    "checked",
    "checksum",
    "did_you_mean",
    "inside",
    "matching",
    "one_of",
    "parse_json",
    "to_plain",
    "within",
    "wrong",
]
