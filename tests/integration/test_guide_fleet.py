"""The admin's guide does what it says: its shell blocks, run in order, as they stand."""

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from mmcl_edge.commands.main import cli
from mmcl_edge.commands.passphrase import PASSPHRASE_VARIABLE
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.keys import KEYS_VARIABLE, KeyStore
from mmcl_edge.runtime.workspace import HOME_VARIABLE
from tests.founded import pack

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fleet.md"
ADMINS_PART = GUIDE.read_text().split("\n## On the device")[0]


def lines():
    for block in re.findall(r"```bash\n(.*?)```", ADMINS_PART, re.DOTALL):
        yield from block.splitlines()


def test_every_line_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "")
    monkeypatch.setenv(HOME_VARIABLE, "no workspace")
    monkeypatch.setenv(KEYS_VARIABLE, "trial")
    one, two = pack(tmp_path, 1), pack(tmp_path, 2)
    write_archive(one, Path("v1.mmclpack"))
    write_archive(two, Path("v2.mmclpack"))
    key = KeyStore(tmp_path / "device").new("device")
    Path("kitchen-7.pub.json").write_text(key.model_dump_json())
    said = []
    for line in lines():
        words = shlex.split(line.replace("5f4d21", two.name[:12]))
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
            continue
        assert words[0] == "mmcl-edge", line
        result = CliRunner().invoke(cli, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        said.append(result.stdout)
    assert len(said) > 25
    text = "\n".join(said)
    for word in ("waits for", "Made a fleet", "release 3", "Revoked the device kitchen-7", "is in force"):
        assert word in text
