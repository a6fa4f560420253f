"""Train every network and build every gallery: one module a model."""
