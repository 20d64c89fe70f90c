"""Exemplars: selection, balance over classes, byte budget."""
