"""The object store: one contract for every backend that needs no network, and the sentences of what goes wrong."""

import threading

import pytest

from mmcl_edge.errors import MissingObjectError, OversizedObjectError, StoreError
from mmcl_edge.fleet.store import Store, Version
from mmcl_edge.fleet.store_backends import without_secrets
from mmcl_edge.fleet.store_errors import classify
from mmcl_edge.fleet.store_retry import LONGEST_DELAY_S
from tests.webstore import files, scripted, served


@pytest.fixture(params=["folder", "file", "memory", "http"])
def store(request, tmp_path):
    if request.param == "http":
        with served(files()) as url:
            yield Store.open(f"{url}/fleet", first_delay_s=0.01)
    else:
        urls = {"folder": str(tmp_path / "a b"), "file": f"file://{tmp_path}/a%20b", "memory": f"memory://{tmp_path}"}
        yield Store.open(urls[request.param], create=True)


def test_what_was_written_is_read(store):
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json", 3) == b"two"
    assert (store.exists("a/b.json"), store.exists("a/c.json")) == (True, False)


def test_a_file_is_written_like_bytes(store, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 3_000_000)
    store.put("big", tmp_path / "data")
    assert store.get("big", 3_000_000) == b"x" * 3_000_000


def test_create_never_overwrites(store):
    assert store.create("a", b"first") is True
    assert store.create("a", b"second") is False
    assert store.get("a", 100) == b"first"


def test_replace_only_over_what_was_read(store):
    store.put("a", b"one")
    seen = store.read("a", 100)
    assert store.replace("a", b"two", seen) is True
    assert store.replace("a", b"three", seen) is False
    assert store.replace("a", b"four", Version(b"never", '"0"')) is False
    assert store.get("a", 100) == b"two"


def test_of_many_creators_one_wins(store):
    won: list[int] = []

    def run(number: int) -> None:
        if store.create("a", str(number).encode()):
            won.append(number)

    _all_at_once(run)
    assert len(won) == 1
    assert store.get("a", 10) == str(won[0]).encode()


def test_of_many_replacers_one_wins(store):
    store.put("a", b"old")
    seen = store.read("a", 10)
    won: list[int] = []

    def run(number: int) -> None:
        if store.replace("a", str(number).encode(), seen):
            won.append(number)

    _all_at_once(run)
    assert len(won) == 1
    assert store.get("a", 10) == str(won[0]).encode()


def test_more_bytes_than_accepted_are_refused(store):
    store.put("a", b"12345")
    with pytest.raises(OversizedObjectError, match="at most 4"):
        store.get("a", 4)


def test_what_is_missing_is_told_apart(store):
    with pytest.raises(MissingObjectError, match="not there"):
        store.get("nothing", 4)


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a//b", "a/../b", "a/./b", ".hidden", "a/", "", "a b", "a\nb", "a\\b", "ä", "x" * 600]
)
def test_paths_out_of_the_store_are_refused(store, path):
    for call in (lambda: store.get(path, 1), lambda: store.put(path, b""), lambda: store.create(path, b"")):
        with pytest.raises(StoreError, match="relative path"):
            call()


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_listing_goes_through_every_page(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("mmcl_edge.fleet.store.PAGE", 7)
    store = Store.open(str(tmp_path) if kind == "folder" else f"memory://{tmp_path}")
    for number in range(40):
        store.put(f"inbox/{number}", b"x" * number)
    store.put("inbox2/other", b"")
    found = {entry.path: entry.size_bytes for entry in store.list("inbox")}
    assert found == {f"inbox/{number}": number for number in range(40)}
    assert list(store.list("nothing")) == []


def test_delete_is_idempotent(tmp_path):
    store = Store.open(str(tmp_path))
    store.put("a", b"")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


def test_flush_reaches_every_file_and_folder_once(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr("mmcl_edge.fleet.store._fsync", lambda path: synced.append(path.name))
    store = Store.open(str(tmp_path / "store"), create=True)
    store.put("a/one", b"1")
    store.put("a/one", b"2")
    store.create("a/two", b"2")
    store.flush()
    assert synced == ["one", "two", "a"]
    store.flush()
    assert len(synced) == 3


def test_what_an_interrupted_write_left_is_not_listed(tmp_path):
    store = Store.open(str(tmp_path))
    store.put("inbox/a", b"")
    (tmp_path / "inbox" / "b#1").write_bytes(b"half")
    assert [entry.path for entry in store.list("inbox")] == ["inbox/a"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x/y", "begins with 'ftp'"),
        ("s3://", "not a well-formed address"),
        ("az://container", "Account must be specified"),
        ("http://", "cannot be opened"),
        ("file://relative/x", "add a slash"),
        ("", "path is empty"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_a_mistyped_address_is_a_sentence(url, message):
    with pytest.raises(StoreError, match=message):
        Store.open(url)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="that is a file"):
        Store.open(str(tmp_path / "file"))


SECRET = "http://admin:geheim@127.0.0.1:9/fleet?sig=geheim"


def test_an_unreachable_store_is_tried_again_and_then_ends():
    store, waits = Store.open(SECRET, retries=3, first_delay_s=1.0), []
    store.sleep = waits.append
    with pytest.raises(StoreError, match=r"unreachable \(4 tries\)") as error:
        store.get("x", 1)
    assert len(waits) == 3
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits))
    assert "geheim" not in str(error.value) + repr(store) + store.url
    assert error.value.__cause__ is None


def test_delays_stop_growing():
    store, waits = Store.open(SECRET, retries=12), []
    store.sleep = waits.append
    with pytest.raises(StoreError):
        store.get("x", 1)
    assert max(waits) <= LONGEST_DELAY_S


def test_a_busy_server_is_waited_for():
    asked: list[str] = []
    answers = [lambda h: h.answer(503), lambda h: h.answer(429), lambda h: h.answer(200, b"there")]
    with served(scripted(answers, asked)) as url:
        store = Store.open(url, first_delay_s=0.001)
        assert store.get("x", 10) == b"there"
    assert len(asked) == 3


@pytest.mark.parametrize(("code", "message"), [(403, "denies permission"), (401, "denies permission"), (418, "418")])
def test_a_refusal_is_not_tried_again(code, message):
    asked: list[str] = []
    with served(scripted([lambda h: h.answer(code)], asked)) as url, pytest.raises(StoreError, match=message):
        Store.open(url).get("x", 10)
    assert len(asked) == 1


def test_a_size_that_is_stated_too_large_is_not_read():
    def boast(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()

    with served(scripted([boast], [])) as url, pytest.raises(OversizedObjectError):
        Store.open(url, retries=0).get("x", 10)


def test_an_answer_that_breaks_off_is_tried_again():
    def short(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    asked: list[str] = []
    with served(scripted([short, lambda h: h.answer(200, b"whole")], asked)) as url:
        assert Store.open(url, first_delay_s=0.001).get("x", 10) == b"whole"


def test_a_lost_answer_to_create_is_looked_up():
    """The server wrote, and its answer got lost: the second try finds its own bytes."""
    written: list[bytes] = []

    def write_and_fail(handler):
        written.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        handler.answer(503)

    def taken(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.answer(412)

    answers = [write_and_fail, taken, lambda h: h.answer(200, written[0])]
    with served(scripted(answers, [])) as url:
        assert Store.open(url, first_delay_s=0.001).create("x", b"mine") is True
    answers = [write_and_fail, taken, lambda h: h.answer(200, b"other")]
    written.clear()
    with served(scripted(answers, [])) as url:
        assert Store.open(url, first_delay_s=0.001).create("x", b"mine") is False


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Unable to write (os error 28)"), "no space is left"),
        (OSError("Unable to write (os error 30)"), "read-only"),
        (PermissionError("no"), "denies permission"),
        (FileNotFoundError("<Code>NoSuchBucket</Code>"), "bucket or container does not exist"),
        (OSError("PUT http://169.254.169.254/latest/api/token"), "no credentials"),
        (NotImplementedError("put"), "can only be read"),
    ],
)
def test_what_backends_say_becomes_a_sentence(error, message):
    failure = classify(error, "s3://fleet", "write x")
    assert message in str(failure.error)
    assert not failure.passing


def test_what_is_printed_has_no_secrets():
    assert without_secrets("https://user:pw@host:8080/a/b?token=1#x") == "https://host:8080/a/b"
    assert without_secrets("/a/plain@folder") == "/a/plain@folder"


def _all_at_once(run):
    barrier = threading.Barrier(8)

    def wait_and_run(number: int) -> None:
        barrier.wait()
        run(number)

    threads = [threading.Thread(target=wait_and_run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
