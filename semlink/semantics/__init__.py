"""Encoders of each modality, alignment heads and the semantic codec, shared by both ends."""
