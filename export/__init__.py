"""Workstation side: torch backbone to plan, segments with VJP, parity, bundle."""
