"""Lab: training, experiments, benchmarks and the command line; the only room that imports all others."""
