"""Train, evaluate, run experiments and benchmarks; the services never import it."""
