"""Running a graph once for each row of a batch, on as many threads as the plan gives the backbones.

Forwards and vector-Jacobian products never mix the rows of a batch, so a batch can be cut into single rows. Against
one call with the whole batch, that keeps what a call needs inside the processor's caches, divides the memory of a
call by the batch, and lets every core work on a row of its own; threads inside one operator scale worse
(docs/decisions/0005-what-a-step-keeps.md has the figures). Rows land in the same places whoever computes them: the
result does not depend on which thread was faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from mmcl_edge.runtime.sessions import Graph

Result = TypeVar("Result")


class Rows:
    """Threads for the rows of a batch; they start when first needed.

    Args:
        threads: rows worked on at once.
        whole: do not cut a batch at all: a GPU works on all its rows at once.
    """

    def __init__(self, threads: int, *, whole: bool = False) -> None:
        self.threads = threads
        self.whole = whole
        self._pool: ThreadPoolExecutor | None = None

    def run(
        self,
        graph: Graph,
        inputs: Sequence[Mapping[str, Tensor]],
        output: tuple[str, Sequence[int]],
        fresh: Sequence[str] = (),
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Run ``graph`` on each row.

        Args:
            graph: one whose outputs follow the rows of its inputs.
            inputs: of each row: name to tensor with a batch of 1; or of all rows at once, as one.
            output: name and shape ``(B, ...)`` of the output that is wanted as one tensor.
            fresh: names of outputs that are wanted row by row, of whatever shape they have.

        Returns:
            The output, and for each row the ``fresh`` ones.
        """
        name, shape = output
        result = torch.empty(tuple(shape), device=next(iter(inputs[0].values())).device)
        places = [result] if len(inputs) == 1 else result.split(1)

        def one(row: int) -> list[Tensor]:
            return graph.run_into(inputs[row], {name: places[row]}, fresh)

        return result, self._map(one, len(inputs))

    def cut(self, **tensors: Tensor) -> list[dict[str, Tensor]]:
        """Each row of some tensors ``(B, ...)`` by name, with a batch of 1; the whole batch where it is not cut."""
        dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        if self.whole:
            return [dense]
        rows = {name: tensor.split(1) for name, tensor in dense.items()}
        return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]

    def _map(self, call: Callable[[int], Result], count: int) -> list[Result]:
        if count <= 1 or self.threads <= 1:
            return [call(row) for row in range(count)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="rows")
        return list(self._pool.map(call, range(count)))
