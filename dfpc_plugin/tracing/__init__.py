"""Run a model once on proxies: what it does to them is found in the table of operators."""
