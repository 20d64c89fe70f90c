"""Which nodes to leave in float: found by measurement, until accuracy holds.

Rules, in this order:
1. All that can be int8 is int8. If the loss of accuracy is within the bound, that is the answer.
2. Every int8 node is returned to float alone, and the noise power that its graph's output loses is its gain,
   relative to the output's own power. Nodes are ranked by gain, over all graphs, once.
3. The best 1, 2, 4, 8, ... of them go float, until the loss is within the bound: at most some seven measurements
   of accuracy for a hundred nodes, and the same answer for the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmcl_edge.calibration.plans import GraphPlan
from mmcl_edge.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement: how many nodes were float by choice, accuracy, share of answers equal to float's."""

    float_nodes: int
    accuracy: float
    agreement: float


def search(
    plans: Sequence[GraphPlan],
    measure: Callable[[], tuple[float, float]],
    *,
    float_accuracy: float,
    keep_accuracy: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Step]:
    """Return nodes to float until ``float_accuracy - accuracy <= keep_accuracy``; ``plans`` are changed in place.

    Args:
        plans: written in int8.
        measure: accuracy and agreement of the plans as they are written.
        float_accuracy: of the float bundle.
        keep_accuracy: what may be lost.
        progress: called with what is done next.

    Returns:
        Every measurement, the last one of the result.

    Raises:
        CalibrationError: not even one node can be int8 within the bound.
    """
    steps = [_measured(plans, measure, 0, progress)]
    ranked: list[tuple[float, str, str]] = []
    while float_accuracy - steps[-1].accuracy > keep_accuracy + 1e-9:
        if not ranked:
            progress("finding sensitive nodes")
            ranked = sorted((row for plan in plans for row in _gains(plan)), key=lambda row: (-row[0], *row[1:]))
        count = max(1, 2 * steps[-1].float_nodes)
        if count >= len(ranked):
            raise CalibrationError(
                f"Int8 should lose at most {keep_accuracy:g} of the accuracy {float_accuracy:.4f}, but loses "
                f"{float_accuracy - steps[-1].accuracy:.4f} with {steps[-1].float_nodes} of {len(ranked)} nodes in "
                "float; nothing was written. Give more samples, another --method, or a larger --keep-accuracy."
            )
        _keep_float(plans, ranked[:count])
        steps.append(_measured(plans, measure, count, progress))
    return steps


def _gains(plan: GraphPlan) -> list[tuple[float, str, str]]:
    return [] if plan.reason else plan.gains()


def _keep_float(plans: Sequence[GraphPlan], rows: Sequence[tuple[float, str, str]]) -> None:
    for plan in plans:
        nodes = {node for _, path, node in rows if path == plan.ref.path}
        if nodes - plan.float_nodes:
            plan.keep_float(nodes)
            if plan.reason is None:
                plan.write()


def _measured(
    plans: Sequence[GraphPlan], measure: Callable[[], tuple[float, float]], count: int, progress: Callable[[str], None]
) -> Step:
    total = sum(len(plan.nodes) for plan in plans)
    progress(f"measuring accuracy with {total} nodes in int8")
    return Step(count, *measure())
