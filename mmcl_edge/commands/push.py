"""``mmcl-edge push``: upload what this device learned to the fleet's inbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option, progress, table
from mmcl_edge.commands.options import FiniteRange


@click.command()
@click.argument("pack", default="current")
@click.option("--to", "url", metavar="URL", help="The store.  [default: that of the fleet this device has joined]")
@click.option(
    "--share-exemplars",
    is_flag=True,
    help="Upload the samples of classes that are kept, too. Without it none leaves; held-out pairs never do.",
)
@click.option("--max-kbps", type=FiniteRange(min=1), metavar="N", help="Kilobits a second at most.")
@click.option("--again", is_flag=True, help="Write every piece anew, also those that are there.")
@json_option
def command(
    pack: str, url: str | None, share_exemplars: bool, max_kbps: float | None, again: bool, as_json: bool
) -> None:
    """Upload PACK (default: the one in use), signed with the key of this device, for an admin to collect and merge.

    An interrupted upload goes on when the same command is given again. The key is made by 'mmcl-edge keys new
    --device' and enrolled by an admin. PACK is the beginning of a digest, 'current' or 'previous'.

    \b
    Examples:
      mmcl-edge push
      mmcl-edge push 3fa94c --max-kbps 256
      mmcl-edge push --share-exemplars --json
    """  # noqa: D301
    from mmcl_edge.commands.passphrase import key_store, signer_for
    from mmcl_edge.fleet.push import push
    from mmcl_edge.packs.keys import DEVICE_KEY
    from mmcl_edge.runtime.workspace import Workspace

    workspace = Workspace().open()
    _ = key_store(DEVICE_KEY).public(DEVICE_KEY)  # a device without a key is told how to make one
    signer = signer_for(DEVICE_KEY)
    with progress("Push", quiet=as_json) as report:
        result = push(
            workspace,
            signer,
            pack=pack,
            url=url,
            share_exemplars=share_exemplars,
            max_kbps=max_kbps,
            again=again,
            on_progress=lambda done, total: report("bytes", done, total),
        )
    emit(vars(result), as_json, _human)


def _human(result: Mapping[str, Any]) -> str:
    start = f"a delta from {result['delta_from'][:16]}" if result["delta_from"] else "whole"
    rows = [
        ("pack", result["pack"]),
        ("device key", result["keyid"]),
        ("store", result["url"]),
        ("size", f"{result['size_bytes']:,} bytes, {start}"),
        ("sent now", f"{result['sent_bytes']:,} bytes"),
        ("training samples shared", result["exemplars"]),
    ]
    done = "It was uploaded before." if result["repeated"] else "Uploaded."
    return f"{done}\n\n{table(('fact', 'value'), rows)}"
