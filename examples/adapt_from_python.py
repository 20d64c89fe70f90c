"""Teach new classes from Python, and see whether the old ones stand.

python examples/adapt_from_python.py HOME BUNDLE TASK_FOLDER

HOME is a workspace (made if it is not there), BUNDLE a folder that 'mmcl-edge export' made, and TASK_FOLDER holds one
folder of sounds, pictures or videos for each class.
"""

import sys
from pathlib import Path

from mmcl_edge.config import AdaptConfig, AdapterConfig, MethodConfig, TrainConfig
from mmcl_edge.runtime.adapt import AdaptEvents, AdaptRequest, adapt
from mmcl_edge.runtime.workspace import Workspace


def main(home: str, bundle: str, task: str) -> None:
    workspace = Workspace(home).create()
    workspace.install_bundle(bundle)
    request = AdaptRequest(
        name=Path(task).name,
        data=Path(task),
        method=MethodConfig(adapter=AdapterConfig(placement="ladder"), train=TrainConfig(epochs=6, min_steps=0)),
        adapt=AdaptConfig(seed=0, tolerance=0.1),
    )
    events = AdaptEvents(on_epoch=lambda epoch, losses: print(f"epoch {epoch}: loss {losses['total']:.3f}"))
    report = adapt(workspace, request, events)
    print(f"classes   {', '.join(report.classes)}")
    for which in ("old", "new"):
        print(f"{which}       before {percent(report.before[which])}, after {percent(report.after[which])}")
    if report.accepted:
        print(f"in use    {report.pack_digest}")
    else:
        print(f"refused: old classes lost more than {100 * report.tolerance:g} points; {report.parent_digest} stays")


def percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main(*sys.argv[1:])
