"""Packs: the trainable part as files."""
