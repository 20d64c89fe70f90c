"""A fleet in a bucket, behind a real S3 API."""

import threading
import warnings
from urllib.request import Request, urlopen

import pytest

from mmcl_edge.errors import ConflictError, MissingObjectError, StoreError
from mmcl_edge.fleet.client import FleetClient, pin
from mmcl_edge.fleet.layout import metadata_path
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.status import status
from mmcl_edge.fleet.store import Store
from mmcl_edge.packs.archive import open_archive
from tests.founded import founded, pack


@pytest.fixture(scope="module")
def address():
    """Where moto's server listens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address, monkeypatch, request):
    """A fresh bucket's URL, and credentials in the environment."""
    values = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.name))}"
    urlopen(Request(f"{address}/{name}", method="PUT")).close()
    return f"s3://{name}"


def test_conditional_writes(bucket):
    store = Store.open(f"{bucket}/a/prefix")
    assert (store.create("x", b"1"), store.create("x", b"2")) == (True, False)
    seen = store.read("x", 10)
    assert (store.replace("x", b"3", seen), store.replace("x", b"4", seen)) == (True, False)
    assert store.get("x", 1) == b"3"
    assert [entry.path for entry in store.list("inbox")] == []
    with pytest.raises(MissingObjectError):
        store.get("y", 1)


def test_of_many_creators_one_wins(bucket):
    store, won = Store.open(bucket), []
    barrier = threading.Barrier(6)

    def run(number):
        barrier.wait()
        if store.create("x", bytes([number])):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get("x", 1)] == [bytes(won)]


def test_listing_has_more_pages_than_one(bucket):
    store = Store.open(bucket)
    for number in range(1005):
        store.put(f"inbox/{number}", b"")
    assert len({entry.path for entry in store.list("inbox")}) == 1005


def test_a_fleet_in_a_bucket(bucket, tmp_path):
    fleet, _ = founded(Store.open(f"{bucket}/fleet"))
    one, two = pack(tmp_path, 1), pack(tmp_path, 2)
    fleet.publish(one, "beta")
    fleet.promote()
    release = fleet.publish(two, "stable")
    rival = Repository(fleet.store, fleet.signers, fleet.memory)
    view = rival.view()
    rival.view = lambda: view
    fleet.publish(pack(tmp_path, 3), "beta")
    with pytest.raises(ConflictError):
        rival.publish(pack(tmp_path, 4), "beta")
    found = status(fleet)
    assert found.url == f"{bucket}/fleet"
    assert {item.channel: item.counter for item in found.releases} == {"beta": 2, "stable": 2}
    folder = tmp_path / "device"
    pin(folder, fleet.store.get(metadata_path("root", 1), 1 << 20))
    client = FleetClient(folder, Store.open(f"{bucket}/fleet"))
    client.refresh()
    file = client.fetch(client.release("stable").deltas[one.name], folder / "delta", max_bytes=1 << 20)
    assert open_archive(file, folder / "packs", parent_of=lambda digest: tmp_path / digest) == release.pack


def test_a_bucket_that_is_not_there(bucket):
    store = Store.open("s3://no-such-bucket-anywhere/fleet")
    for call in (lambda: store.get("x", 1), lambda: store.put("x", b""), lambda: list(store.list("inbox"))):
        with pytest.raises(StoreError, match="bucket or container does not exist") as error:
            call()
        assert not isinstance(error.value, MissingObjectError)


def test_an_endpoint_without_tls_must_be_allowed(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP"):
        Store.open(bucket).get("x", 1)


def test_a_server_that_is_gone(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = Store.open(bucket, retries=1, first_delay_s=0.001)
    with pytest.raises(StoreError, match="unreachable") as error:
        store.get("x", 1)
    assert "geheim" not in str(error.value)
