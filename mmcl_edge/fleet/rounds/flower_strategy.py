"""The server's rounds as a Flower strategy that drops nobody.

Rules of one round, in this order:

1. The nodes that are there are asked, or a share of them, drawn by the seed; a node that still owes an answer is not.
2. Answers are taken in as they come. The round closes when the quorum of those asked has answered, or its time is over.
3. What came is merged (``server.Rounds``). Answers that are still owed are waited for in later rounds, until their
   messages expire: they count with their age.
4. After the last round those that are still owed have one round's time, and a last merge.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from mmcl_edge.errors import IntegrityError
from mmcl_edge.fleet.rounds.flower_device import ANSWER, ORDER
from mmcl_edge.fleet.rounds.messages import answer_from, record_of
from mmcl_edge.fleet.rounds.server import RoundReport, Rounds

logger = logging.getLogger(__name__)

OnRound = Callable[[RoundReport], None]


@dataclass(frozen=True)
class Pace:
    """How a round goes.

    Attributes:
        share: of the nodes that are asked, above 0 and at most 1.
        quorum: share of those asked whose answers close the round.
        round_s: seconds after which it closes anyway.
        message_s: seconds for which an answer is waited for at all.
        least_nodes: that must be there before the first round begins.
        poll_s: seconds between looks.
        seed: of who is asked.
    """

    share: float = 1.0
    quorum: float = 1.0
    round_s: float = 3600.0
    message_s: float = 43_200.0
    least_nodes: int = 1
    poll_s: float = 0.5
    seed: int = 0


class MergeStrategy(Strategy):  # type: ignore[misc]
    """See the module docstring.

    Args:
        rounds: the server's state.
        pace: how rounds go.
        on_round: told after each.
    """

    def __init__(self, rounds: Rounds, pace: Pace | None = None, on_round: OnRound = lambda report: None) -> None:
        self.rounds = rounds
        self.pace = pace or Pace()
        self.on_round = on_round
        self.reports: list[RoundReport] = []
        self._random = random.Random(self.pace.seed)
        self._owed: dict[str, tuple[int, float]] = {}  # message to the node that owes its answer, and until when

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord | None = None, num_rounds: int = 3, **ignored: Any
    ) -> Result:
        """Do ``num_rounds`` rounds. Packs lie in the folder of ``rounds``, so no arrays are given or returned."""
        result = Result()
        self._wait_for_nodes(grid)
        for number in range(1, num_rounds + 1):
            asked = self._push(grid, self.configure_train(number, ArrayRecord(), ConfigRecord(), grid))
            replies = self._pull(grid, asked, self.pace.quorum)
            _, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
        if self._owed:
            replies = self._pull(grid, set(self._owed), 1.0)
            _, result.train_metrics_clientapp[num_rounds + 1] = self.aggregate_train(num_rounds + 1, replies)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Rule 1: the messages that ask."""
        busy = {node for node, _ in self._owed.values()}
        nodes = sorted(set(grid.get_node_ids()) - busy)
        count = math.ceil(self.pace.share * len(nodes))
        content = record_of(self.rounds.order())
        for node in sorted(self._random.sample(nodes, count)):
            yield Message(
                RecordDict({ORDER: ConfigRecord(content)}),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
                group_id=str(server_round),
                ttl=self.pace.message_s,
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Rule 3: take the answers in, and close the round."""
        for reply in replies:
            self._receive(reply)
        report = self.rounds.close()
        self.reports.append(report)
        self.on_round(report)
        ages = [age for _, age in report.merged.values()]
        figures = {"merged": len(ages), "late": sum(age > 0 for age in ages), "refused": len(report.refused)}
        return None, MetricRecord({**figures, "owed": len(self._owed), "rejected": int(report.rejected is not None)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Devices check each pack themselves when they learn on top of it; nobody is asked."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See ``configure_evaluate``."""
        return None

    def summary(self) -> None:
        """Log how rounds go."""
        logger.info("rounds in %s: %s", self.rounds.folder, self.pace)

    def _receive(self, reply: Message) -> None:
        sender = str(reply.metadata.src_node_id)
        if reply.has_error():
            problem: str | None = f"it failed ({reply.error.reason})"
        else:
            try:
                answer = answer_from(dict(reply.content.config_records.get(ANSWER, {})))
                problem = self.rounds.receive(answer, sender=sender)
            except IntegrityError as error:
                problem = str(error)
        if problem:
            logger.warning("the answer of node %s was left out: %s", sender, problem)

    def _wait_for_nodes(self, grid: Grid) -> None:
        while len(list(grid.get_node_ids())) < self.pace.least_nodes:
            time.sleep(self.pace.poll_s)

    def _push(self, grid: Grid, messages: Iterable[Message]) -> set[str]:
        """Send, one by one, so that only one copy of the pack is held; whoever is not there any more is not asked."""
        now, until = time.monotonic(), time.monotonic() + self.pace.message_s
        self._owed = {key: owed for key, owed in self._owed.items() if owed[1] > now}
        sent = {key: (one.metadata.dst_node_id, until) for one in messages for key in grid.push_messages([one])}
        self._owed |= sent
        return set(sent)

    def _pull(self, grid: Grid, asked: set[str], quorum: float) -> list[Message]:
        """Rule 2: what has come, late answers too, when enough of ``asked`` have answered or the time is over."""
        end, enough, found = time.monotonic() + self.pace.round_s, math.ceil(quorum * len(asked)), list[Message]()
        while True:
            for reply in grid.pull_messages(list(self._owed)):
                self._owed.pop(reply.metadata.reply_to_message_id, None)
                found.append(reply)
            answered = len(asked) - len(asked & set(self._owed))
            if answered >= enough or time.monotonic() > end:
                return found
            time.sleep(self.pace.poll_s)
