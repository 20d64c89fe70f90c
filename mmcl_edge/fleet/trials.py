"""Packs on trial: into use, confirmed, or given up, so that a cut at any moment can be settled afterwards.

Order of every change (each step is one rename; a cut between two leaves what ``settle`` goes on from):

- ``swap``: note the trial; ``previous``; ``current``; examine; confirm, or leave on trial, or give up.
- confirm: remember the release as applied; remove the note.
- give up: remember the release as refused; note that; ``current``; ``previous``; remove the note.
"""

from __future__ import annotations

from collections.abc import Callable

from mmcl_edge.errors import InputError
from mmcl_edge.fleet.joining import FOLDER
from mmcl_edge.fleet.sync_state import Applied, DeviceState, StateRecord
from mmcl_edge.runtime.trial import Trial
from mmcl_edge.runtime.workspace import Workspace

MAX_ATTEMPTS = 2
"""A check through the link that did not end so often (the process died in it) counts as failed."""

UNCONFIRMED = "nobody confirmed it with 'mmcl-edge mark-good' before the next sync"


class Trials:
    """The trials of one workspace, whose lock the caller holds."""

    def __init__(self, workspace: Workspace, examine: Callable[[Trial], str | None]) -> None:
        self.workspace = workspace
        self.record = StateRecord(workspace.trust_path / FOLDER)
        self._examine = examine

    def settle(self) -> str | None:
        """Finish what a cut left, and give up a pack whose trial nobody confirmed; a sentence if something was done."""
        trial = self.workspace.trial.read()
        if trial is None:
            return None
        current = self.workspace.current_digest()
        if current != trial.pack:
            self.workspace.trial.clear()
            return None
        name = f"The pack {trial.pack[:16]}..."
        if trial.stage == "checking" and trial.attempts < MAX_ATTEMPTS:
            problem = self._checked(trial, lambda: self._examine(trial))
            if problem is None:
                return f"{name} came into use in a sync that was cut short; it was checked now."
        else:
            problem = UNCONFIRMED if trial.stage == "on-trial" else "its check did not end"
            self._give_up(trial, problem)
        return f"{name} was given up ({problem}); {self._in_use()} is in use again."

    def swap(self, trial: Trial, examine: Callable[[], str | None]) -> str | None:
        """Put the pack of ``trial``, which is in ``packs/``, in use; what is wrong with it where it was given up."""
        self.workspace.trial.write(trial)
        self.workspace.use_pack(trial.pack)
        return self._checked(trial, examine)

    def refuse(self, target: Applied, reason: str) -> None:
        """Remember that a pack did not work here, which never came into use."""
        self._update(lambda state: state.refuse(target, reason))

    def confirm(self) -> str:
        """End the trial of the pack in use; returns its digest.

        Raises:
            InputError: no pack is on trial, or it is not in use.
        """
        trial = self.workspace.trial.read()
        if trial is None or trial.pack != self.workspace.current_digest():
            raise InputError(
                "Expected a pack on trial, but none is in use; 'mmcl-edge sync --trial' puts one on trial, and "
                "'mmcl-edge pack list' says which is in use."
            )
        self._confirm(trial)
        return trial.pack

    def _checked(self, trial: Trial, examine: Callable[[], str | None]) -> str | None:
        begun = trial.model_copy(update={"attempts": trial.attempts + 1})
        self.workspace.trial.write(begun)
        problem = examine()
        if problem is not None:
            self._give_up(trial, problem)
        elif trial.must_be_confirmed:
            self._update(lambda state: state.used(_applied(trial)))
            self.workspace.trial.write(begun.model_copy(update={"stage": "on-trial"}))
        else:
            self._confirm(trial)
        return problem

    def _confirm(self, trial: Trial) -> None:
        self._update(lambda state: state.used(_applied(trial)))
        if trial.withdrawal:  # what was withdrawn is no pack to go back to
            before = None if trial.previous in (trial.pack, trial.good) else trial.previous
            self.workspace.restore(trial.pack, before)
        self.workspace.trial.clear()

    def _give_up(self, trial: Trial, problem: str) -> None:
        self.refuse(_applied(trial), problem)
        self.workspace.trial.write(trial.model_copy(update={"stage": "refused"}))
        self.workspace.restore(trial.good, trial.previous)
        self.workspace.trial.clear()

    def _update(self, change: Callable[[DeviceState], DeviceState]) -> None:
        state = self.record.read()
        if state is not None:
            self.record.write(change(state))

    def _in_use(self) -> str:
        current = self.workspace.current_digest()
        return "no pack" if current is None else f"{current[:16]}..."


def _applied(trial: Trial) -> Applied:
    return Applied(pack=trial.released, channel=trial.channel, counter=trial.counter)


def mark_good(workspace: Workspace) -> str:
    """Confirm the pack on trial, so that the next sync does not give it up; returns its digest.

    Raises:
        LockedError: another process works in the workspace.
        InputError: no pack is on trial.
        StorageError: a file cannot be written; the trial goes on.
    """
    with workspace.lock():
        return Trials(workspace, lambda trial: None).confirm()
