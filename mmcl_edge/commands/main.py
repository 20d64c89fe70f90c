"""``mmcl-edge``: the table of commands, and the one place that turns errors into sentences and exit codes.

Exit codes: 0 done; 1 a check failed or another known error; 2 input that cannot be used; 3 a trained pack was refused
by the acceptance rule; 130 interrupted.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import click

from mmcl_edge.errors import MmclEdgeError, StorageError

JSON_KEY = "mmcl_edge.json"
"""Set in ``ctx.meta`` by ``console.json_option``: errors are then JSON on stdout too."""

LINE_KEY = "mmcl_edge.line"
"""In ``ctx.meta``, whether ``--json`` stands on the line: all that is known where the line cannot be understood."""

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: where ``command`` lives, and its line in ``--help``."""

    module: str
    help: str


COMMANDS = {
    "init": Entry("mmcl_edge.commands.init", "Make the workspace and install a bundle in it."),
    "export": Entry("mmcl_edge.commands.export", "Cut two backbones into ONNX segments: make a bundle (workstation)."),
    "adapt": Entry("mmcl_edge.commands.adapt", "Learn new classes on this device, without forgetting the old ones."),
    "predict": Entry("mmcl_edge.commands.predict", "Say what files sound and look like."),
    "index": Entry("mmcl_edge.commands.index", "Find files by what they show, sound like or say."),
    "calibrate": Entry(
        "mmcl_edge.commands.calibrate", "Make the pack say how sure it is, or the bundle int8, from calibration data."
    ),
    "pack": Entry(
        "mmcl_edge.commands.pack", "List, show, use, roll back, export, sign, verify, compare and prune packs."
    ),
    "sync": Entry("mmcl_edge.commands.sync", "Fetch the pack that the fleet released, try it, and use it."),
    "mark-good": Entry("mmcl_edge.commands.mark_good", "Confirm the pack on trial."),
    "push": Entry("mmcl_edge.commands.push", "Upload what this device learned to the fleet's inbox."),
    "keys": Entry("mmcl_edge.commands.keys", "Make, show, rotate and revoke keys: this device's, or the fleet's."),
    "fleet": Entry("mmcl_edge.commands.fleet", "Found a fleet, release packs to it, and see how it stands (admin)."),
    "merge": Entry("mmcl_edge.commands.merge", "Merge packs of many devices into one, and judge it (admin)."),
    "warmup": Entry("mmcl_edge.commands.warmup", "Load and run each forward graph once (TensorRT: build its engine)."),
    "bench": Entry("mmcl_edge.commands.bench", "Compare learners on streams, and report the result."),
    "doctor": Entry("mmcl_edge.commands.doctor", "Check this installation and its workspace."),
    "quickstart": Entry("mmcl_edge.commands.quickstart", "Run the whole job on built-in samples."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are invoked; ``--help`` reads the table alone.

    Args:
        entries: name of a command to where it is; the order is the order of work.
    """

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order, which is the order of work."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module behind ``cmd_name`` and return its ``command``."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(entry.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])


class MainGroup(LazyGroup):
    """The group of all commands: the one place that turns errors into exit codes."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """Understand the line, as far as it is not a command's."""
        as_json = "--json" in itertools.takewhile(lambda word: word != "--", args)
        with _usage_errors(as_json=as_json):
            ctx = super().make_context(info_name, args, *rest, **extra)
        ctx.meta[LINE_KEY] = as_json
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; known errors become a sentence and an exit code."""
        try:
            with _usage_errors(as_json=bool(ctx.meta.get(LINE_KEY))):
                return super().invoke(ctx)
        except MmclEdgeError as error:
            _report(error, as_json=bool(ctx.meta.get(JSON_KEY)))
            ctx.exit(error.exit_code)
        except OSError as error:
            known = StorageError(
                f"The system refused ({error}); see that the file or folder may be used, and try again."
            )
            _report(known, as_json=bool(ctx.meta.get(JSON_KEY)))
            ctx.exit(known.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing was lost. Run the same command again to go on.", err=True)
            ctx.exit(INTERRUPTED)


class _JsonUsageError(click.UsageError):
    """A line that cannot be understood, told as other errors are with ``--json``."""

    def __init__(self, error: click.UsageError) -> None:
        advice = "" if error.ctx is None else f" Try '{error.ctx.command_path} --help'."
        super().__init__(error.format_message() + advice, error.ctx)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(_json(click.UsageError.__name__, self.message, self.exit_code), file=file)


@contextmanager
def _usage_errors(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if as_json and not isinstance(error, _JsonUsageError):
            raise _JsonUsageError(error) from error
        raise


def _json(kind: str, message: str, exit_code: int) -> str:
    body = {"type": kind, "message": message, "exit_code": exit_code}
    return json.dumps({"error": body}, ensure_ascii=False)


def _report(error: MmclEdgeError, *, as_json: bool) -> None:
    if as_json:
        click.echo(_json(type(error).__name__, str(error), error.exit_code))
    else:
        click.echo(f"Error: {error}", err=True)
    logging.getLogger(__name__).debug("traceback", exc_info=error)


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _set_up_logging(verbosity: int) -> None:
    logger = logging.getLogger("mmcl_edge")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel({0: logging.NOTSET, 1: logging.INFO}.get(verbosity, logging.DEBUG))


@click.group(cls=MainGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmcl-edge", prog_name="mmcl-edge")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice: everything.")
def cli(verbose: int) -> None:
    """Continual audio-visual learning on devices.

    \b
    First:  mmcl-edge init
    Then:   mmcl-edge adapt --task new_sounds
            mmcl-edge predict clip.mp4
    The workspace is MMCL_EDGE_HOME, or a folder in your user data.
    """  # noqa: D301
    _set_up_logging(verbose)


def main() -> None:
    """Entry point of the ``mmcl-edge`` script."""
    cli(prog_name="mmcl-edge")


if __name__ == "__main__":
    main()
