"""Measure quality: metrics, intervals, caches, reports, and the services wired in one process."""
