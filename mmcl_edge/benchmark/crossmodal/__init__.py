"""The benchmark of the shared space: learners of pair sets, and what is found across modalities never paired."""
