"""The table of commands, and the one place that turns errors into exit codes."""

import json
import logging
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from mmcl_edge import errors
from mmcl_edge.commands import main
from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.main import COMMANDS, Entry, cli

HEAVY = ("torch", "onnxruntime", "numpy", "pydantic", "rich", "av", "mmcl_edge.config", "mmcl_edge.types")


@pytest.fixture
def run(monkeypatch):
    """Runs ``mmcl-edge test ...`` where the command ``test`` does as told."""

    def run(action, *arguments):
        @click.command()
        @json_option
        def command(as_json):
            """Do as told."""
            emit({"answer": action()}, as_json, lambda result: f"answer {result['answer']}")

        monkeypatch.setitem(COMMANDS, "test", Entry("fake_command", "For tests."))
        monkeypatch.setitem(sys.modules, "fake_command", SimpleNamespace(command=command))
        return CliRunner().invoke(cli, ["test", *arguments])

    return run


def _raiser(error):
    def action():
        raise error

    return action


EXIT_CODES = {
    name: (error, error.exit_code)
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, errors.MmclEdgeError)
}


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.values(), ids=EXIT_CODES)
def test_errors_become_a_sentence_and_an_exit_code(run, error, code):
    result = run(_raiser(error("Expected this, but found that; do so.")))
    assert result.exit_code == code > 0
    assert result.stderr == "Error: Expected this, but found that; do so.\n"
    assert result.stdout == ""


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.values(), ids=EXIT_CODES)
def test_errors_become_json_where_asked(run, error, code):
    result = run(_raiser(error("Ein Satz für Menschen.")), "--json")
    body = {"type": error.__name__, "message": "Ein Satz für Menschen.", "exit_code": code}
    assert json.loads(result.stdout) == {"error": body}
    assert result.stderr == ""
    assert result.exit_code == code


def test_interruption_says_that_nothing_was_lost(run):
    result = run(_raiser(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert "nothing was lost" in result.stderr


def test_a_mistake_of_ours_is_not_hidden(run):
    assert isinstance(run(_raiser(ZeroDivisionError())).exception, ZeroDivisionError)


def test_results_are_text_or_json(run):
    assert run(lambda: 42).stdout == "answer 42\n"
    assert json.loads(run(lambda: "ä", "--json").stdout) == {"answer": "ä"}


USAGE = {"unknown command": ["nope"], "unknown option": ["--nope"], "option of a command": ["pack", "list", "--nope"]}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_exits_with_two(arguments):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "Error: No such" in result.stderr


USAGE_WITH_JSON = {
    "unknown command": (["nope", "--json"], "nope"),
    "unknown option": (["--nope", "pack", "list", "--json"], "--nope"),
    "unknown option of a command": (["pack", "list", "--json", "--nope"], "pack list --help"),
    "--json comes last": (["pack", "list", "--nope", "--json"], "--nope"),
    "missing argument": (["pack", "use", "--json"], "Missing argument 'PACK'"),
    "bad choice": (["export", "--json", "--vjp", "nope"], "nope"),
    "bad number": (["pack", "use", "abc", "--threshold", "many", "--json"], "many"),
    "ours": (["export", "--fuse", "--json"], "--fuse needs --out"),
}


@pytest.mark.parametrize(("arguments", "said"), USAGE_WITH_JSON.values(), ids=USAGE_WITH_JSON)
def test_wrong_usage_is_json_where_asked(arguments, said):
    result = CliRunner().invoke(cli, arguments)
    error = json.loads(result.stdout)["error"]
    assert said in error.pop("message")
    assert error == {"type": "UsageError", "exit_code": 2}
    assert (result.exit_code, result.stderr) == (2, "")


def test_wrong_usage_is_a_sentence_where_json_is_no_option():
    result = CliRunner().invoke(cli, ["pack", "list", "--nope", "--", "--json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: No such option" in result.stderr


def test_help_lists_every_command():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def test_version_is_the_package_s():
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"mmcl-edge, version {version('mmcl-edge')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nope"]], ids=lambda arguments: arguments[0])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from mmcl_edge.commands.main import cli
try:
    cli({arguments!r})
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_script_and_the_module_are_the_same():
    done = subprocess.run([sys.executable, "-m", "mmcl_edge.commands.main", "--help"], capture_output=True, text=True)
    assert done.stdout.startswith("Usage: mmcl-edge [OPTIONS] COMMAND")


LEVELS = {"quiet": ([], logging.NOTSET), "-v": (["-v"], logging.INFO), "-vv": (["-vv"], logging.DEBUG)}


@pytest.mark.parametrize(("options", "level"), LEVELS.values(), ids=LEVELS)
def test_verbosity(monkeypatch, run, options, level):
    logger = logging.getLogger("mmcl_edge")
    run(lambda: 1)
    result = CliRunner().invoke(cli, [*options, "test"])
    assert result.exit_code == 0
    assert logger.level == level
    run(lambda: 1)
    assert len([handler for handler in logger.handlers if isinstance(handler, main._StderrHandler)]) == 1


def test_messages_go_to_stderr(run):
    def action():
        logging.getLogger("mmcl_edge.test").warning("careful")
        return 1

    result = run(action)
    assert result.stdout == "answer 1\n"
    assert result.stderr == "WARNING mmcl_edge.test: careful\n"


def test_progress_is_plain_lines_without_a_terminal(capsys):
    with progress("Export") as report:
        report("segment", 1, 14)
        report("parity")
    assert capsys.readouterr() == ("", "Export [1/14] segment\nExport parity\n")


def test_progress_can_be_quiet(capsys):
    with progress("Export", quiet=True) as report:
        report("segment", 1, 14)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("Export") as report:
        report("[bold]segment", 1, 14)
    assert "1/14" in capsys.readouterr().err


def test_tables_take_cells_literally():
    text = table(("a", "b"), [("[red]x[/red]", 1), ("y", 22)])
    assert text.splitlines()[0].split() == ["a", "b"]
    assert "[red]x[/red]" in text
