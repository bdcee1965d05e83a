"""What the scores and couplings of a model look like: tables, plots, JSON and CSV."""
