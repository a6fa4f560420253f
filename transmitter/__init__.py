"""Transmitter: turns a query into a few complex symbols and a precoder."""
