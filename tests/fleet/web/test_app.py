"""The API as its clients see it, without sockets: what is published, and what every error answer says."""

import asyncio
import json
import logging
from pathlib import Path

import httpx
import msgspec
import pytest

from landline.fleet.api import (
    AnswerUnavailable,
    OperationError,
    Preview,
    Problem,
    ServerStatus,
    Snapshot,
    StorageError,
    Update,
)
from landline.fleet.model import Action
from landline.fleet.web.app import BODY_BYTES_MAX, JOB_BODY_BYTES_MAX, build_app
from landline.fleet.web.auth import is_allowed_host, is_bearer
from landline.fleet.web.errors import STATUS_BY_CODE
from landline.fleet.web.sse import event_stream

BEARER = {"authorization": "Bearer s3cret"}


def client(app, **headers):
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1", headers=headers)


@pytest.fixture
async def http(operations):
    async with client(build_app(operations, token=None)) as c:
        yield c


def problem(response) -> Problem:
    assert response.headers["content-type"] == "application/json"
    return msgspec.json.decode(response.content, type=Problem, strict=True)


async def test_publishes_the_operations(http, operations):
    assert msgspec.json.decode((await http.get("/status")).content, type=ServerStatus) == operations.status()
    names = [m["facts"]["name"] for m in (await http.get("/machines")).json()]
    assert names == ["lab-1", "lab-2", "lab-3"]

    preview = await http.post("/jobs/preview", json={"targets": ["lab-[12]"]})
    assert preview.status_code == 200
    ids = [t.machine_id for t in msgspec.json.decode(preview.content, type=Preview).machines]
    assert ids == ["m-lab-1", "m-lab-2"]

    created = await http.post("/jobs", json={"action": "restart", "machine_ids": ids, "delay_s": 5})
    assert created.status_code == 201
    job_id = created.json()["job"]["id"]
    assert operations.requests[0].delay_s == 5
    assert operations.requests[0].action is Action.RESTART

    assert [v["job"]["id"] for v in (await http.get("/jobs?limit=1")).json()] == [job_id]
    assert (await http.get(f"/jobs/{job_id[:4]}")).json()["job"]["id"] == job_id

    cancelled = await http.post(f"/jobs/{job_id}/cancel", json={"cancelled_by": "ada"})
    assert cancelled.status_code == 200
    assert {e["state"] for e in cancelled.json()["executions"]} == {"cancelled"}
    assert cancelled.headers["cache-control"] == "no-store"


async def test_openapi_describes_the_same_structs(http):
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/api/v1/status",
        "/api/v1/machines",
        "/api/v1/machines/{name}/resolve",
        "/api/v1/jobs",
        "/api/v1/jobs/preview",
        "/api/v1/jobs/{job_id}",
        "/api/v1/jobs/{job_id}/cancel",
        "/api/v1/updates",
    }
    assert {"JobRequest", "JobView", "Problem", "Snapshot"} <= set(document["components"]["schemas"])
    body = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].endswith("/JobRequest")
    assert "operations" not in json.dumps(document["paths"])


@pytest.mark.parametrize(("code", "status"), STATUS_BY_CODE.items())
def test_the_document_lists_the_refusals(code, status):
    document = (Path(__file__).parents[3] / "docs" / "fleet.md").read_text()
    [row] = [line for line in document.splitlines() if line.startswith("| 4") and f"`{code}`" in line]
    assert row.startswith(f"| {status} |")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown_target", 404),
        ("unknown_job", 404),
        ("ambiguous_job", 409),
        ("empty_target", 400),
        ("bad_request", 400),
        ("something_new", 400),
    ],
)
async def test_a_refusal_keeps_its_code_and_sentence(http, operations, code, status):
    operations.failure = OperationError(code, "No.")
    response = await http.post("/jobs", json={"action": "restart"})
    assert response.status_code == status
    assert problem(response) == Problem(code=code, message="No.")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "The request body must be a JSON object; send {} if it has no fields."),
        ("[]", "The request body must be a JSON object; send {} if it has no fields."),
        ("{", "The request body is not valid JSON: Input data was truncated."),
        ("{}", "The field 'action' is missing; add it."),
        (
            '{"action":"explode"}',
            "The field 'action' is invalid: invalid enum value 'explode'; "
            "choose one of logoff, restart, shutdown, wake.",
        ),
        (
            '{"action":"restart","targets":[1]}',
            "The field 'targets[0]' is invalid: expected `str`, got `int`.",
        ),
        ('{"action":"restart","please":true}', "The field 'please' does not exist; leave it out."),
    ],
)
async def test_a_wrong_body_is_named_in_one_sentence(http, operations, body, sentence):
    response = await http.post("/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert problem(response) == Problem(code="bad_request", message=sentence)
    assert operations.requests == []


async def test_a_body_that_is_no_text_is_refused(http):
    for body in (b"\xff\xfe", b'{"action":"restart","message":"\xff"}'):
        response = await http.post("/jobs", content=body)
        assert response.status_code == 400
        assert problem(response).code == "bad_request"


async def test_client_text_is_not_echoed_at_length(http):
    response = await http.post("/jobs", json={"action": "restart", "x" * 50_000: 1})
    assert len(problem(response).message) < 300


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
async def test_a_wrong_limit_is_named(http, limit):
    response = await http.get(f"/jobs?limit={limit}")
    assert response.status_code == 400
    assert problem(response).message.startswith("The field 'limit' is invalid: expected `int`")


async def test_large_bodies_are_refused(http, operations):
    async def chunks():
        for _ in range(3):
            yield b" " * (BODY_BYTES_MAX // 2)

    for body in (b" " * (BODY_BYTES_MAX + 1), chunks()):
        response = await http.post("/jobs/preview", content=body)
        assert response.status_code == 413
        assert problem(response).code == "too_large"
    assert (await http.post("/jobs", content=b" " * (JOB_BODY_BYTES_MAX + 1))).status_code == 413


async def test_a_frozen_list_of_thousands_fits(http, operations):
    ids = ["m-lab-1"] * 20_000
    assert (await http.post("/jobs", json={"action": "wake", "machine_ids": ids})).status_code == 201


async def test_unknown_paths_and_methods(http):
    missing = await http.get("/nothing")
    assert (missing.status_code, problem(missing).code) == (404, "not_found")
    wrong = await http.put("/jobs")
    assert (wrong.status_code, problem(wrong).code) == (405, "method_not_allowed")


async def test_an_unexpected_failure_reveals_nothing_and_is_logged(http, operations, caplog):
    operations.failure = RuntimeError("password=hunter2")
    with caplog.at_level(logging.ERROR):
        response = await http.get("/machines")
    assert response.status_code == 500
    assert problem(response).code == "internal"
    assert "hunter2" not in response.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("failure", [RuntimeError("no"), StorageError("no")], ids=["internal", "storage"])
async def test_a_path_forges_no_line_of_the_log(http, operations, caplog, failure):
    operations.failure = failure
    with caplog.at_level(logging.ERROR):
        response = await http.get("/jobs/%0aERROR%20forged%1b%5b2J%e2%80%ae" + "x" * 5000)
    assert response.status_code >= 500
    [record] = caplog.records
    assert "/jobs/ ERROR forged\ufffd[2J\ufffdxxx" in record.getMessage()
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 300


@pytest.mark.parametrize("depth", [1_000, 30_000])
@pytest.mark.parametrize("path", ["/jobs", "/jobs/preview", "/jobs/1/cancel"])
@pytest.mark.parametrize("shape", ["[%s]", '{"targets":%s}', '{"x":%s}', '{"message":{"x":%s}}'])
async def test_a_body_that_is_nested_too_deeply_is_refused_in_a_sentence(http, caplog, path, depth, shape):
    body = shape % ("[" * depth + "]" * depth)
    response = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert problem(response).code == "bad_request"
    assert problem(response).message.endswith(".")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("failure", "status", "code", "words"),
    [
        (StorageError("the database x is full"), 503, "storage_failed", "nothing was done"),
        (AnswerUnavailable("the job x was cancelled"), 500, "answer_unavailable", "was carried out"),
    ],
    ids=["nothing stored", "stored"],
)
async def test_a_storage_error_says_whether_anything_was_done(
    http, operations, caplog, failure, status, code, words
):
    operations.failure = failure
    with caplog.at_level(logging.ERROR):
        response = await http.get("/machines")
    assert (response.status_code, problem(response).code) == (status, code)
    assert words in problem(response).message
    assert str(failure) in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret2", "Bearer s3créť"],
)
async def test_tcp_requires_a_token(operations, authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    async with client(build_app(operations, token="s3cret")) as c:
        for path in ("/status", "/updates", "/openapi.json"):
            response = await c.get(path, headers=headers)
            assert response.status_code == 401
            assert problem(response).code == "unauthorized"
        assert (await c.post("/jobs", json={"action": "restart"}, headers=headers)).status_code == 401
    assert operations.requests == []
    assert operations.readers == []


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("127.0.0.1:5464", None, None),
        ("[::1]:5464", None, None),
        ("localhost:5464", "http://localhost:5464", None),
        ("control.example", "https://control.example", None),
        ("evil.example", None, "foreign_host"),
        ("localhost.evil.example:5464", None, "foreign_host"),
        ("[::1", None, "foreign_host"),
        ("localhost:5464", "http://evil.example", "foreign_origin"),
        ("localhost:5464", "http://localhost:8000", "foreign_origin"),
        ("localhost:5464", "null", "foreign_origin"),
    ],
)
async def test_pages_of_other_sites_are_refused(operations, host, origin, code):
    app = build_app(operations, token="s3cret", allowed_hosts=frozenset({"control.example"}))
    headers = BEARER | {"host": host} | ({"origin": origin} if origin else {})
    async with client(app) as c:
        response = await c.get("/status", headers=headers)
    if code is None:
        assert response.status_code == 200
    else:
        assert response.status_code == 403
        assert problem(response).code == code


def test_hosts_and_tokens():
    assert is_allowed_host("192.168.1.5", frozenset())
    assert not is_allowed_host("", frozenset())
    assert is_bearer(["bearer abc"], "abc")
    assert not is_bearer(["Bearer abc", "Bearer abc"], "abc")


def test_an_empty_token_is_refused(operations):
    with pytest.raises(ValueError, match="token is empty"):
        build_app(operations, token=" ")


# The stream of updates


async def test_a_stream_carries_updates_and_keep_alives(operations):
    closing = asyncio.Event()
    stream = event_stream(operations.updates(), closing=closing, keep_alive_s=0.01)
    first = await anext(stream)
    assert first.startswith(b"data: ")
    assert first.endswith(b"\n\n")
    assert isinstance(msgspec.json.decode(first[6:], type=Update), Snapshot)
    assert await anext(stream) == b": keep-alive\n\n"
    operations.add("lab-4")
    arrived = await anext(stream)
    while arrived.startswith(b":"):
        arrived = await anext(stream)
    assert b'"type":"machine"' in arrived
    closing.set()
    with pytest.raises(StopAsyncIteration):
        while True:
            await anext(stream)
    await until(lambda: not operations.readers)


async def test_a_stream_ends_with_its_source_and_raises_its_failure():
    async def source(failing):
        yield Snapshot(now_at=1, machines=(), jobs=())
        if failing:
            raise RuntimeError("lost")

    chunks = [c async for c in event_stream(source(False), closing=asyncio.Event())]
    assert len(chunks) == 1
    with pytest.raises(RuntimeError, match="lost"):
        async for _ in event_stream(source(True), closing=asyncio.Event()):
            pass


async def test_a_cancelled_stream_closes_its_source(operations):
    async def read():
        async for _ in event_stream(operations.updates(), closing=asyncio.Event()):
            pass

    reader = asyncio.create_task(read())
    await operations.first_reader.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await until(lambda: not operations.readers)


async def until(condition):
    """Lets the loop run until something becomes true; the test's own time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0)
