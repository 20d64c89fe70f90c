"""The search: rules of its docstring, on graphs whose every node costs a known accuracy."""

from dataclasses import dataclass, field

import pytest

from mmcl_edge.calibration.search import search
from mmcl_edge.errors import CalibrationError


@dataclass
class _Ref:
    path: str


@dataclass
class _Plan:
    """A graph whose node ``n`` costs ``costs[n]`` of accuracy in int8, and whose noise says so."""

    path: str
    costs: dict[str, float]
    reason: str | None = None
    float_nodes: frozenset = frozenset()
    written: list = field(default_factory=list)

    def __post_init__(self):
        self.ref = _Ref(self.path)

    @property
    def nodes(self):
        return () if self.reason else tuple(node for node in self.costs if node not in self.float_nodes)

    def gains(self):
        return [(self.costs[node], self.path, node) for node in self.nodes]

    def keep_float(self, nodes):
        self.float_nodes |= frozenset(nodes)
        if not self.nodes:
            self.reason = "all float"

    def write(self):
        self.written.append(self.float_nodes)


def _plans(*costs):
    return [_Plan(f"graph {number}", dict(one)) for number, one in enumerate(costs)]


def _measure(plans):
    return lambda: (0.9 - sum(plan.costs[node] for plan in plans for node in plan.nodes), 1.0)


EIGHT = {f"n{i}": 0.001 * i for i in range(8)}


def test_nothing_is_float_where_accuracy_holds():
    plans = _plans(EIGHT)
    steps = search(plans, _measure(plans), float_accuracy=0.9, keep_accuracy=0.05)
    assert [step.float_nodes for step in steps] == [0]
    assert plans[0].float_nodes == frozenset()


@pytest.mark.parametrize(
    ("bound", "floats"),
    [(0.0281, 0), (0.0211, 1), (0.0151, 2), (0.0061, 4)],
    ids=["none", "the worst", "two", "four"],
)
def test_the_worst_nodes_of_all_graphs_go_float_until_the_bound_holds(bound, floats):
    plans = _plans(
        {k: v for k, v in EIGHT.items() if k in ("n0", "n3", "n7")},
        {k: EIGHT[k] for k in ("n1", "n2", "n4", "n5", "n6")},
    )
    steps = search(plans, _measure(plans), float_accuracy=0.9, keep_accuracy=bound)
    worst = {f"n{i}" for i in range(8 - floats, 8)}
    assert {node for plan in plans for node in plan.float_nodes} == worst
    assert steps[-1].float_nodes == floats
    assert 0.9 - steps[-1].accuracy <= bound
    for plan in plans:
        assert plan.written == sorted(set(plan.written), key=len)
        assert (plan.written[-1] if plan.written else frozenset()) == plan.float_nodes


def test_the_number_of_measurements_is_bounded_by_the_logarithm():
    plans = _plans({f"n{i}": 0.0001 for i in range(100)})
    steps = search(plans, _measure(plans), float_accuracy=0.9, keep_accuracy=0.004)
    assert [step.float_nodes for step in steps] == [0, 1, 2, 4, 8, 16, 32, 64]


def test_a_graph_without_int8_nodes_is_float():
    plans = _plans({"a": 0.5}, EIGHT)
    search(plans, _measure(plans), float_accuracy=0.9, keep_accuracy=0.05)
    assert plans[0].reason == "all float"
    assert plans[0].written == []


def test_a_bound_that_cannot_be_kept_is_refused():
    plans = _plans({"a": 0.1, "b": 0.1})
    with pytest.raises(CalibrationError, match=r"at most 0\.01 .* loses 0\.1000 with 1 of 2 nodes"):
        search(plans, _measure(plans), float_accuracy=0.9, keep_accuracy=0.01)
