"""An admin killed (SIGKILL) while publishing, at random moments: devices and the next admin go on."""

import random
import signal
import subprocess
import sys
import time

import pytest

from mmcl_edge.fleet.client import FleetClient, pin
from mmcl_edge.fleet.layout import MAX_ARCHIVE_BYTES, Settings, metadata_path
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.roles import Ceremony, first_root
from mmcl_edge.fleet.signers import StoredSigners, sign
from mmcl_edge.fleet.store import Store
from mmcl_edge.packs.archive import open_archive
from mmcl_edge.packs.keys import KeyStore
from tests.founded import Clock, pack

CHILD = """
import sys
from pathlib import Path
from mmcl_edge.fleet.metadata import Memory
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.signers import StoredSigners
from mmcl_edge.fleet.store import Store
from mmcl_edge.packs.keys import KeyStore

store, keys, root, *packs = sys.argv[1:]
signers = StoredSigners(KeyStore(Path(keys)), lambda name: None)
fleet = Repository(Store.open(store), signers, Memory(root=Path(root).read_text()))
print("ready", flush=True)
while True:
    for folder in packs:
        print(fleet.publish(Path(folder), "stable", allow_downgrade=True).counter, flush=True)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_while_publishing(kills, tmp_path):
    keys = KeyStore(tmp_path / "keys")
    public = {name: keys.new(name).key for name in ("root", "release", "online")}
    signers = StoredSigners(keys, lambda name: None)
    settings, clock = Settings(bins=2), Clock()
    root = first_root(
        Ceremony((public["root"],), 1, (public["release"],), (public["online"],)), clock(), settings.lifetimes
    )
    sign(root, [public["root"]], signers)
    store = Store.open(str(tmp_path / "store"), create=True)
    fleet = Repository.create(store, signers, root, settings=settings)
    (tmp_path / "root.json").write_bytes(root.to_bytes())
    packs = [pack(tmp_path, version) for version in (1, 2, 3)]
    fleet.publish(packs[0], "stable")
    counter, moment = 1, random.Random(0)
    for number in range(kills):
        command = [
            sys.executable,
            "-c",
            CHILD,
            store.url,
            str(keys.folder),
            str(tmp_path / "root.json"),
            *map(str, packs),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(moment.uniform(0, 0.4))
            child.send_signal(signal.SIGKILL)
            told = [int(line) for line in child.stdout.read().split()]
        seen = _seen(store, tmp_path / f"device{number}")
        assert seen >= max(told, default=counter)
        counter = fleet.publish(packs[number % 2], "stable", allow_downgrade=True).counter
        assert counter >= seen
        assert _seen(store, tmp_path / f"later{number}") == counter
        assert fleet.view().is_complete
    assert counter >= kills


def _seen(store, folder):
    """The release that a new device finds, its archive opened."""
    pin(folder, store.get(metadata_path("root", 1), 1 << 20))
    client = FleetClient(folder, store)
    client.refresh()
    release = client.release("stable")
    file = client.fetch(release.archive, folder / "archive", max_bytes=MAX_ARCHIVE_BYTES)
    open_archive(file, folder / "packs", expected_digest=release.pack)
    return release.counter
