"""Measure speed and memory: one module a benchmark."""
