"""One design choice each, measured with and without it: ``python -m lab.experiments.ablations.NAME``."""
