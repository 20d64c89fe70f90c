"""A fleet behind web servers: a plain one, which devices read, and one that takes conditional PUT, for admins."""

import pytest

from mmcl_edge.errors import StoreError
from mmcl_edge.fleet.client import FleetClient, pin
from mmcl_edge.fleet.layout import metadata_path
from mmcl_edge.fleet.status import status
from mmcl_edge.fleet.store import Store
from mmcl_edge.packs.archive import open_archive
from tests.founded import founded, pack
from tests.webstore import files, plain, served


@pytest.fixture
def fleet(tmp_path):
    made, _ = founded(Store.open(str(tmp_path / "store"), create=True))
    made.publish(pack(tmp_path), "stable")
    return made


@pytest.fixture
def web(fleet, tmp_path):
    """The fleet's folder, served."""
    with served(plain(tmp_path / "store")) as url:
        yield url


def test_devices_read_a_folder_that_a_web_server_serves(fleet, web, tmp_path):
    folder = tmp_path / "device"
    pin(folder, fleet.store.get(metadata_path("root", 1), 1 << 20))
    client = FleetClient(folder, Store.open(web))
    client.refresh()
    release = client.release("stable")
    file = client.fetch(release.archive, folder / "archive", max_bytes=1 << 20)
    assert open_archive(file, folder / "packs", expected_digest=release.pack) == pack(tmp_path).name


def test_a_plain_web_server_takes_nothing(fleet, web, tmp_path):
    store = Store.open(web)
    for call in (
        lambda: store.put("x", b""),
        lambda: store.create("x", b""),
        lambda: store.delete("x"),
        lambda: list(store.list("inbox")),
        lambda: founded(Store.open(f"{web}/elsewhere")),
    ):
        with pytest.raises(StoreError, match="can only be read"):
            call()


def test_status_of_a_fleet_that_can_only_be_read(fleet, web):
    fleet.store = Store.open(web)
    found = status(fleet)
    assert found.inbox is None
    assert [release.channel for release in found.releases] == ["stable"]


def test_a_server_with_conditional_put_holds_a_whole_fleet(tmp_path):
    with served(files()) as url:
        fleet, _ = founded(Store.open(f"{url}/fleet"))
        fleet.publish(pack(tmp_path, 1), "stable")
        assert fleet.publish(pack(tmp_path, 2), "stable").counter == 2


def test_a_server_that_is_gone_is_told_after_a_while(fleet, tmp_path):
    with served(plain(tmp_path / "store")) as url:
        pass
    store = Store.open(url, retries=2, first_delay_s=0.001)
    with pytest.raises(StoreError, match=r"unreachable \(3 tries\)"):
        store.get("metadata/timestamp.json", 100)
