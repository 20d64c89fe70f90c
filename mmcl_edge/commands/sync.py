"""``mmcl-edge sync``: bring what the fleet released to this device, if it works here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.options import FiniteRange, provider_option, threads_option
from mmcl_edge.errors import InputError, RejectedError

MAX_ROOT_BYTES = 512_000
_FAILED = ("refused", "rolled-back", "refused-before")


@click.command()
@click.argument("url", required=False)
@click.option(
    "--channel", metavar="C", help="Channel to follow from now on.  [default: the one before; stable at first]"
)
@click.option(
    "--root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The fleet's root metadata, the first time: what this device trusts.",
)
@click.option("--fingerprint", metavar="SHA256", help="Instead of --root: the sha256 of the root metadata.")
@click.option(
    "--trust-first-use", is_flag=True, help="Instead of --root: trust what the store gives. For closed networks alone."
)
@click.option("--rejoin", is_flag=True, help="Forget the fleet joined before, and all that it ever released here.")
@click.option("--trial", is_flag=True, help="Go back at the next sync, unless 'mmcl-edge mark-good' was run meanwhile.")
@click.option(
    "--tolerance",
    type=FiniteRange(min=0, max=1),
    metavar="X",
    help="Share of stored canaries, or mean reciprocal rank of pairs, that the new pack may lose.  [default: 0.1]",
)
@provider_option
@threads_option
@json_option
def command(
    url: str | None,
    channel: str | None,
    root: Path | None,
    fingerprint: str | None,
    trust_first_use: bool,
    rejoin: bool,
    trial: bool,
    tolerance: float | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Follow a fleet: fetch the pack that it released, verify it, check that it works here, and put it in use.

    URL is needed once: a folder, file://, http(s)://, s3://, gs:// or az://. The pack in use stays in use whenever
    anything fails; the exit code is 3 where the released pack does not work on this device.

    \b
    Examples:
      mmcl-edge sync https://example.org/fleet --root root.json
      mmcl-edge sync s3://fleet --channel beta --fingerprint 3fa94c...
      mmcl-edge sync
      mmcl-edge sync --trial --json
    """  # noqa: D301
    from mmcl_edge.fleet.health import TOLERANCE
    from mmcl_edge.fleet.joining import Invitation
    from mmcl_edge.fleet.sync import SyncRequest, sync
    from mmcl_edge.runtime.workspace import Workspace

    workspace = Workspace().open()
    invitation = Invitation(
        url=url,
        channel=channel,
        root=None if root is None else _root_bytes(root),
        fingerprint=None if fingerprint is None else _digest(fingerprint),
        trust_first_use=trust_first_use,
        rejoin=rejoin,
    )
    with progress("Sync", quiet=as_json) as report:
        request = SyncRequest(
            invitation=invitation,
            trial=trial,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            provider=provider,
            threads=threads,
            on_stage=report,
        )
        result = sync(workspace, request)
    emit(vars(result), as_json, _human)
    if result.outcome in _FAILED:
        click.get_current_context().exit(RejectedError.exit_code)


def _root_bytes(path: Path) -> bytes:
    from mmcl_edge.fileio import read_bounded

    return read_bounded(path, MAX_ROOT_BYTES)


def _digest(text: str) -> str:
    """A sha256 as people write it: in any case, with blanks or colons between groups."""
    digest = "".join(text.replace(":", " ").split()).lower()
    if len(digest) != 64 or any(char not in "0123456789abcdef" for char in digest):
        raise InputError(
            f"Expected a fingerprint of 64 hexadecimal digits (sha256), but found {text[:80]!r}; ask the fleet's "
            "admin for all of it."
        )
    return digest


_SENTENCES = {
    "nothing-released": "The fleet has released nothing yet; sync again later.",
    "in-use": "The released pack is in use now.",
    "on-trial": "The released pack is on trial: run 'mmcl-edge mark-good' if all is well, or the next sync goes back.",
    "up-to-date": "Nothing to do: the released pack is in use.",
    "on-top": "Nothing to do: the pack in use was learned on top of the released one.",
    "left-alone": "Nothing was changed: the released pack was in use before, and another one was put in use since.",
    "refused": "The released pack does not work on this device; the pack in use stays in use.",
    "rolled-back": "The released pack did not work once it was in use; the pack before is in use again.",
    "refused-before": "Nothing was changed: this release did not work on this device before.",
}


def _human(result: Mapping[str, Any]) -> str:
    rows = [
        ("channel", f"{result['channel']} (release {result['counter']})" if result["counter"] else result["channel"]),
        ("released", result["pack"] or "nothing"),
        ("in use", result["in_use"] or "none"),
    ]
    if result["fetched_bytes"]:
        start = f", as a delta from {result['delta_from'][:16]}" if result["delta_from"] else ""
        rows.append(("fetched", f"{result['fetched_bytes']:,} bytes{start}"))
    if result["canaries"]:
        shares = {name: "-" if one is None else f"{100 * one:.1f} %" for name, one in result["accuracy"].items()}
        rows.append(("canaries", f"{result['canaries']}, right before {shares['before']}, now {shares['after']}"))
    for name, rank in ((result["retrieval"] or {}).get("after") or {}).items():
        before = result["retrieval"]["before"].get(name)
        rows.append((f"pairs of {name}", f"rank {'-' if before is None else f'{before:.3f}'} before, now {rank:.3f}"))
    for name in ("settled", "reason"):
        if result[name]:
            rows.append((name, result[name]))
    if result["joined"]:
        rows.append(("trusts the root", result["joined"]))
    return f"{_SENTENCES[result['outcome']]}\n\n{table(('fact', 'value'), rows)}"
