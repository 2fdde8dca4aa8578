"""The review page's server over real HTTP: a reader's way through a deck, and everybody who should not get in."""

import http.client
import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import uvicorn

from harvester.certificate.audit import Deck, Verdict, list_hash
from harvester.certificate.audit_folder import VERDICTS, AuditFolder, Plan, find_id
from harvester.errors import LabelError, SettingsError, StoreError
from harvester.records import FINDS
from harvester.review.server import COOKIE, Address, application
from harvester.review.session import Judgement, Session
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store, mark, tubelet

ODD = "v<img src=x onerror=alert(1)>"
TOKEN = "t" * 20
FINDS_OF_A_LIST, PLANTED = 70, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    hu = np.arange(12 * 64 * 64, dtype=np.int16).reshape(12, 64, 64) % 1000
    return made_store(tmp_path_factory.mktemp("store"), {ODD: "vh", "m": "vm"}, [mark(ODD, (40, 40, 50, 50))], hu=hu)


@pytest.fixture
def folder(tmp_path: Path) -> AuditFolder:
    rows = [finding(ODD, at) for at in range(FINDS_OF_A_LIST)] + [finding("m", at) for at in range(PLANTED)]
    names = [row["find"] for row in rows]
    deck = Deck.drawn(names[:FINDS_OF_A_LIST], [FINDS_OF_A_LIST], dict.fromkeys(names[FINDS_OF_A_LIST:], False), 1)
    hashes = {"list_hash": list_hash(deck.ranked), "content": "c"}
    plan = Plan(run_id="r", attempt=0, target=0.9, level=0.05, seed=1, deck=deck, **hashes)
    return AuditFolder.create(Location.of(tmp_path / "audit-0"), plan, pa.Table.from_pylist(rows, FINDS))


def finding(volume: str, at: int) -> dict[str, Any]:
    x, y = 5 * (at % 10), 5 * (at // 10)
    row = tubelet(volume, (x, y, x + 4, y + 4), z=(4, 5, 6), tubelet_id=at, round=0)
    return row | {"find": find_id(row, "salt")}


class Browser:
    """What a browser sends: its Host, its cookie, its Origin."""

    def __init__(self, port: int) -> None:
        self.port, self.cookie = port, ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Cookie": self.cookie} if self.cookie else {}
        if method == "POST":
            sent["Origin"] = f"http://127.0.0.1:{self.port}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with closing(connection):
            connection.request(method, path, data, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}

    def enter(self) -> "Browser":
        status, _, headers = self.ask("GET", f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert "samesite=strict" in headers["set-cookie"].lower()
        self.cookie = headers["set-cookie"].partition(";")[0]
        return self

    def judge(self, screen: int, verdict: str, **more: Any) -> tuple[int, dict[str, Any]]:
        status, body, _ = self.ask("POST", "/verdict", {"screen": screen, "verdict": verdict, **more})
        return status, json.loads(body)


@contextmanager
def served(session: Session, certify: Any = None) -> Iterator[Browser]:
    config = uvicorn.Config(lambda: None, host="127.0.0.1", port=0, log_level="warning")
    socket = config.bind_socket()
    socket.listen()  # who comes before the server is there waits
    port = socket.getsockname()[1]
    config.app = application(session, Address("http", f"127.0.0.1:{port}"), TOKEN, certify)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        yield Browser(port)
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.fixture
def session(folder: AuditFolder, store: Store) -> Iterator[Session]:
    with folder.reading("one") as reader:
        yield Session(folder, reader, store)


@pytest.fixture
def browser(session: Session) -> Iterator[Browser]:
    with served(session) as found:
        yield found.enter()


def test_a_reader_goes_through_the_deck_and_every_verdict_is_on_disk(browser: Browser, folder: AuditFolder) -> None:
    status, body, headers = browser.ask("GET", "/state")
    state = json.loads(body)
    assert (status, state["screens"], state["read"], state["screen"]) == (200, FINDS_OF_A_LIST + PLANTED, 0, 0)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    for screen in range(3):
        status, state = browser.judge(screen, "accepted")
        assert (status, state["screen"]) == (200, screen + 1)
        assert len(folder.said("one")) == screen + 1
    _, state = browser.judge(3, "unsure", note="movement")
    assert state["read"] == 4
    assert folder.said("one")[-1].note == "movement"
    _, body, _ = browser.ask("POST", "/undo", {})
    assert json.loads(body)["screen"] == 3
    assert (folder.said("one")[-1].verdict, len(folder.said("one"))) == (None, 5)


def test_answers_are_taken_back_one_by_one_the_planted_ones_too(session: Session, folder: AuditFolder) -> None:
    planted = [at for at, find in enumerate(session.screens) if find in folder.plan.deck.planted]
    last = planted[1] + 2
    for screen in range(last + 1):
        session.judge(Judgement(screen, Verdict.REJECTED))
    for screen in range(last, -1, -1):
        state = session.undo()
        assert (state["screen"], state["read"], session.first_unread()) == (screen, screen, screen)
    assert session.undo()["read"] == 0  # there is nothing left to take back
    again = session.judge(Judgement(0, Verdict.ACCEPTED))
    assert (again["read"], again["screen"]) == (1, 1)
    # What counts of a planted find is what was said first.
    session.judge(Judgement(planted[0], Verdict.ACCEPTED))
    assert folder.verdicts("one")[session.screens[planted[0]]] == Verdict.REJECTED


def test_no_answer_tells_which_finds_are_planted(session: Session, folder: AuditFolder) -> None:
    said = []
    for screen in range(40):
        state = session.judge(Judgement(screen, Verdict.ACCEPTED))
        said.append(state["words"])
        head = session.picture(screen)
        (length,) = struct.unpack("<I", head[:4])
        assert json.loads(head[4 : 4 + length])["said"] == "accepted"
    assert all(len(set(said[start : start + 10])) == 1 for start in (9, 19, 29))  # told every ten screens
    assert len(set(said)) > 2


def test_a_deck_that_is_read_and_proves_nothing_says_so_and_what_the_planted_finds_show(session: Session) -> None:
    for screen in range(len(session.screens)):
        state = session.judge(Judgement(screen, Verdict.ACCEPTED))
    assert "all are read, and a precision of 0.9 is not proven; 6 of 6 planted finds that are none" in state["words"]


def test_a_picture_is_the_finds_own_voxels_boxes_and_marks(browser: Browser, session: Session, store: Store) -> None:
    screen = next(at for at, find in enumerate(session.screens) if session.rows[find]["volume_id"] == ODD)
    status, body, _ = browser.ask("GET", f"/picture/{screen}")
    (length,) = struct.unpack("<I", body[:4])
    head = json.loads(body[4 : 4 + length])
    hu = np.frombuffer(body[4 + length :], "<i2").reshape(head["shape"])
    assert status == 200
    np.testing.assert_array_equal(hu, store.read(ODD).hu_zyx)  # all of a small volume
    row = session.rows[session.screens[screen]]
    assert head["boxes"] == [[z, row["x1"][0], row["y1"][0], row["x2"][0], row["y2"][0]] for z in (4, 5, 6)]
    assert (head["marks"], head["first"], head["said"]) == ([[5, 40.0, 40.0, 50.0, 50.0]], 5, None)
    assert not any(word in body[: 4 + length] for word in (b"img", b"score", b"p-", b"tubelet"))


def test_a_moved_box_is_kept_where_it_was_dragged(browser: Browser, folder: AuditFolder) -> None:
    status, _ = browser.judge(0, "moved", boxes=[[5, 10.25, 11.0, 20.5, 21.75]])
    assert status == 200
    assert folder.said("one")[0].placed == [(5, (10.25, 11.0, 20.5, 21.75))]
    for boxes in ([[5, 10, 11, 90, 21]], [[99, 1, 1, 2, 2]], [[5, 9, 9, 3, 3]], [[5, float("nan"), 1, 2, 2]], []):
        assert browser.judge(1, "moved", boxes=boxes)[0] == 400
    assert browser.judge(1, "accepted", boxes=[[5, 1, 1, 2, 2]])[0] == 400
    assert len(folder.said("one")) == 1


@pytest.mark.parametrize(
    ("path", "headers", "wanted"),
    [
        ("/state", {"Host": "evil.example"}, 403),
        ("/state", {"Cookie": ""}, 403),
        ("/state", {"Cookie": f"{COOKIE}=guess"}, 403),
        ("/?token=guess", {}, 403),
        ("/state", {"Origin": "http://evil.example"}, 403),
        ("/page/..%2fserver.py", {}, 404),
        ("/page/../server.py", {}, 404),
        ("/picture/../../etc/passwd", {}, 404),
        ("/picture/-1", {}, 404),
        ("/picture/99999", {}, 400),
        ("/picture/99999999999999999999999999", {}, 400),
        ("/nothing", {}, 404),
    ],
)
def test_who_is_not_the_page_gets_nothing(browser: Browser, path: str, headers: dict[str, str], wanted: int) -> None:
    status, body, _ = browser.ask("GET", path, **headers)
    assert status == wanted
    assert b"def " not in body


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": ""}, {"Origin": "null"}, {"Cookie": ""}, {"Host": "evil"}]
)
def test_another_page_changes_nothing(browser: Browser, folder: AuditFolder, headers: dict[str, str]) -> None:
    for path in ("/verdict", "/undo", "/certify"):
        status, _, _ = browser.ask("POST", path, {"screen": 0, "verdict": "accepted"}, **headers)
        assert status == 403
    assert folder.said("one") == []


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"null", b"[" * 100_000, b"x" * 100_000, {"screen": "0", "verdict": "accepted"},
        {"screen": 0}, {"screen": 0, "verdict": "yes"}, {"screen": 500, "verdict": "accepted"},
        {"screen": -1, "verdict": "accepted"}, {"screen": 0, "verdict": "accepted", "note": 3},
        {"screen": 0, "verdict": "moved", "boxes": [[1, 2]]}, {"screen": 0, "verdict": "moved", "boxes": "all"},
        {"screen": 0, "verdict": "moved", "boxes": [[1e400, 0, 0, 1, 1]]},
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_one_line_and_changes_nothing(browser: Browser, folder: AuditFolder, body: Any) -> None:
    status, answer, _ = browser.ask("POST", "/verdict", body)
    assert status == 400
    assert "\n" not in json.loads(answer)["error"]
    assert folder.said("one") == []


def test_ten_tabs_at_once_lose_nothing(browser: Browser, folder: AuditFolder) -> None:
    def tab(number: int) -> list[int]:
        return [browser.judge((number * 7 + step) % 60, "accepted")[0] for step in range(20)]

    with ThreadPoolExecutor(10) as pool:
        answers = [status for tab_of in pool.map(tab, range(10)) for status in tab_of]
    assert set(answers) == {200}
    assert len(folder.said("one")) == 200
    assert len(folder.verdicts("one")) == 60


def test_a_flood_of_verdicts_is_kept_whole_and_the_page_still_answers(browser: Browser, folder: AuditFolder) -> None:
    body, headers = json.dumps({"screen": 3, "verdict": "accepted"}).encode(), {"Cookie": browser.cookie}
    headers |= {"Origin": f"http://127.0.0.1:{browser.port}"}

    def flood(_: int) -> set[int]:
        with closing(http.client.HTTPConnection("127.0.0.1", browser.port, timeout=60)) as connection:
            answers = set()
            for _ in range(50):
                connection.request("POST", "/verdict", body, headers)
                with connection.getresponse() as answer:
                    answer.read()
                    answers.add(answer.status)
            return answers

    with ThreadPoolExecutor(8) as pool:
        flooding = [pool.submit(flood, each) for each in range(8)]
        assert browser.ask("GET", "/state")[0] == 200
        assert set().union(*(each.result() for each in flooding)) == {200}
    assert (len(folder.said("one")), len(folder.verdicts("one"))) == (400, 1)


def test_reading_on_after_a_kill_and_the_words_below_the_picture(folder: AuditFolder, store: Store) -> None:
    with folder.reading("one") as reader:
        session = Session(folder, reader, store)
        for find in session.screens[:60]:
            planted = find in folder.plan.deck.planted
            reader.say(find, Verdict.REJECTED if planted else Verdict.ACCEPTED)
    with (folder.path / "one" / VERDICTS).open("ab") as file:
        file.write(b'{"find": "cut off in the mid')
    with folder.reading("one") as reader:
        session = Session(folder, reader, store)
        assert session.first_unread() == 60
        state = session.state()
        assert state["words"].startswith("Proven: at least 0.90 of the best 70 are right; 54 of 54 right")
        assert (state["proven"], state["bound"] >= 0.9) == (70, True)
        reader.say(session.screens[60], Verdict.REJECTED)
    assert len(folder.said("one")) == 61


def test_certify_is_a_click(session: Session) -> None:
    with served(session, lambda: "12 lesions certified") as browser:
        browser.enter()
        assert json.loads(browser.ask("GET", "/state")[1])["can_certify"] is True
        assert json.loads(browser.ask("POST", "/certify", {})[1]) == {"words": "12 lesions certified"}


def test_two_servers_of_one_reader_and_names_that_are_none(
    folder: AuditFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harvester.storage.owner.SECONDS_TO_END", 0.1)
    monkeypatch.setattr("harvester.storage.owner.PAUSE_S", 0.01)
    with folder.reading("one"), folder.reading("two"):
        with pytest.raises(StoreError, match="is written by process"), folder.reading("one"):
            pass
        for name in ("", "../x", "a/b", "x" * 40, ".."):
            with pytest.raises(SettingsError, match="want letters"), folder.reading(name):
                pass


def test_two_readers_and_the_one_who_decides(folder: AuditFolder) -> None:
    first, second, third = folder.plan.deck.order[:3]
    lure = next(iter(folder.plan.deck.planted))
    said = {
        "one": {first: Verdict.ACCEPTED, second: Verdict.ACCEPTED, third: Verdict.MOVED, lure: Verdict.REJECTED},
        "two": {first: Verdict.MOVED, second: Verdict.REJECTED, lure: Verdict.ACCEPTED},
    }
    for name, words in said.items():
        with folder.reading(name) as reader:
            for find, word in words.items():
                reader.say(find, word)
            reader.say(lure, Verdict.UNSURE)  # too late: a second thought on a planted find
    assert folder.disputed() == [second]
    assert folder.decided() == {first: Verdict.ACCEPTED, third: Verdict.MOVED, lure: Verdict.ACCEPTED}
    with folder.reading("adjudicated") as reader:
        reader.say(second, Verdict.REJECTED)
    assert folder.decided()[second] == Verdict.REJECTED
    assert folder.disputed() == []


def test_an_audit_is_drawn_once_and_refused_where_it_was_changed(folder: AuditFolder) -> None:
    at = Location.of(folder.path)
    with pytest.raises(StoreError, match="never drawn again"):
        AuditFolder.create(at, folder.plan, folder.finds)
    tree = json.loads((folder.path / "audit.json").read_text())
    tree["deck"]["ranked"] = tree["deck"]["ranked"][:-1]
    (folder.path / "audit.json").write_text(json.dumps(tree))
    with pytest.raises(StoreError, match="not the one that was drawn"):
        AuditFolder.open(at)
    (folder.path / "audit.json").write_text("{")
    with pytest.raises(StoreError, match=r"no audit\.json that can be read"):
        AuditFolder.open(at)
    with pytest.raises(SettingsError, match="wants a disk"):
        AuditFolder.open(Location("s3://bucket/run"))
    (folder.path / "one").mkdir()
    (folder.path / "one" / VERDICTS).write_text("{}\n")
    with pytest.raises(LabelError, match="line 1: is no verdict"):
        folder.said("one")
