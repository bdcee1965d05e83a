"""Run a model once on proxies; the operator table says what each operation does to them."""
