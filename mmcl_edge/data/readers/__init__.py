"""One short module a dataset; ``mmcl_edge.data.datasets`` opens them by name."""
