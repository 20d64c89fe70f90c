"""Learners: one protocol, the method and every baseline."""
