"""Make documents and assets, and check for regressions; not installed."""
