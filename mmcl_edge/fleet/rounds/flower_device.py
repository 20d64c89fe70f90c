"""A device in Flower: ``flower-supernode`` runs ``app``, which takes part in every round it is asked for.

The node's configuration says what the server cannot know (``--node-config``):

    workspace    its folder; default: MMCL_EDGE_HOME. In a simulation, workspaces=DIR has one folder a partition.
    task         name of what it has to learn; default ``rounds``, so the samples lie in tasks/rounds
    provider     execution provider of the backbones
    threads      of the backbones; default: every core
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mmcl_edge.errors import MmclEdgeError
from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.fleet.rounds.messages import MAX_REASON_CHARS, Answer, order_from, record_of
from mmcl_edge.runtime.workspace import Workspace

ORDER, ANSWER = "order", "answer"
"""Names of the records in the messages' contents."""
TASK = "rounds"


def train(message: Message, context: Context) -> Message:
    """Carry out the order in ``message``; whatever is wrong here is told in the answer."""
    return carry_out(message, {**context.run_config, **context.node_config})


def carry_out(message: Message, node: Mapping[str, Any]) -> Message:
    """The answer to the order in ``message``, on the node with these settings."""
    record = message.content.config_records.get(ORDER, {})
    try:
        order = order_from(dict(record))
        answer = take_part(
            _workspace(node),
            order,
            task=str(node.get("task", TASK)),
            provider=str(node.get("provider", "auto")),
            threads=int(node["threads"]) if "threads" in node else None,
        )
    except MmclEdgeError as error:
        answer = _refusal(record, error)
    return Message(RecordDict({ANSWER: ConfigRecord(record_of(answer))}), reply_to=message)


def _workspace(node: Mapping[str, Any]) -> Workspace:
    if "workspaces" in node:
        return Workspace(Path(str(node["workspaces"])) / str(node.get("partition-id", 0))).open()
    return Workspace(str(node["workspace"]) if "workspace" in node else None).open()


def _refusal(record: Any, error: MmclEdgeError) -> Answer:
    number = record.get("round")
    return Answer(round=number if isinstance(number, int) and number > 0 else 1, refused=str(error)[:MAX_REASON_CHARS])


app = ClientApp()
app.train()(train)
