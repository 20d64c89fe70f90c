"""Continual cross-modal generalization: modalities join a shared discrete space, pair by pair (paper 2)."""
