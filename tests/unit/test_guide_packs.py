"""The commands of ``docs/guides/packs.md`` run, in their order, on a workspace with a pack and its parent."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mmcl_edge.commands.main import Entry, MainGroup
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.archive import is_archive
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.builders import pack_contents, write_bundle

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "packs.md"
CLI = MainGroup(
    "mmcl-edge",
    entries={"keys": Entry("mmcl_edge.commands.keys", ""), "pack": Entry("mmcl_edge.commands.pack", "")},
)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("MMCL_EDGE_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("MMCL_EDGE_PASSPHRASE", "secret")
    monkeypatch.chdir(tmp_path)
    workspace = Workspace().create()
    workspace.install_bundle(write_bundle(tmp_path / "bundle").path)
    weights = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    contents = {"bundle_digest": workspace.bundle_family()}
    parent = write_pack(workspace.packs_path, pack_contents(**contents, tensors={"fusion.weight": weights}))
    child = pack_contents(
        **contents,
        tensors={"fusion.weight": weights + 0.01 * weights.roll(1)},
        parents=(read_pack(workspace.packs_path / parent).as_parent(),),
        version=2,
    )
    workspace.use_pack(parent)
    workspace.use_pack(write_pack(workspace.packs_path, child))
    return workspace


def test_the_commands_of_the_guide_run(workspace, tmp_path):
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line.removeprefix("$ mmcl-edge ") for block in blocks for line in block.splitlines()]
    assert len(commands) == 13
    for command in commands:
        result = CliRunner().invoke(CLI, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert all(is_archive(tmp_path / f"{name}.mmclpack") for name in ("birds", "small", "smaller"))
    assert (tmp_path / "smaller.mmclpack").stat().st_size < (tmp_path / "small.mmclpack").stat().st_size
