"""The losses as pure functions over tensors."""
