"""Fleets: many devices, one store; what they learn is gathered, merged and sent back."""
