"""Loading and running every forward graph of the backbones once, so that nobody waits for it later.

On TensorRT that builds the engines, which takes minutes and is kept; elsewhere it brings the files into memory and
proves that each graph runs here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.sessions import Graph

OnGraph = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Warmed:
    """One graph: its file in the bundle, how long it took to load (or build), and its first run, in milliseconds."""

    graph: str
    load_ms: float
    run_ms: float


def warm_up(runtime: Runtime, on_graph: OnGraph = lambda name, done, total: None) -> list[Warmed]:
    """Load and run the graphs that predicting through segments needs, in order.

    Args:
        runtime: opened; it needs no pack.
        on_graph: called before each graph with its name, how many are done, and how many there are.

    Raises:
        BundleError: a graph cannot be loaded.
    """
    graphs = [graph for backbone in runtime.backbones.values() for graph in backbone.graphs(training=False)]
    warmed = []
    for done, graph in enumerate(graphs):
        name = graph.path.relative_to(runtime.bundle.path).as_posix()
        on_graph(name, done, len(graphs))
        warmed.append(_warm(name, graph, runtime.sessions.device))
    return warmed


def _warm(name: str, graph: Graph, device: torch.device) -> Warmed:
    started = time.perf_counter()
    _ = graph.session
    loaded = time.perf_counter()
    usual = {input_name: torch.zeros(shapes[1], device=device) for input_name, shapes in (graph.profile or {}).items()}
    graph.run_any_shape(usual, ["y"])
    return Warmed(name, 1e3 * (loaded - started), 1e3 * (time.perf_counter() - loaded))
