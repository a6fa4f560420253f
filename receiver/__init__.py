"""Receiver: equalises, decodes the meaning and searches the gallery."""
