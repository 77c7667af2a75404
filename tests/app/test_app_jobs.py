"""The queue of `jaxgen app`: one after another, the next one after a fault, and what is known of each meanwhile."""

import io
import threading

import jax
import pytest
from messages import one_line

from jaxgen.app import jobs as queue
from jaxgen.app.jobs import Jobs
from jaxgen.errors import UserError

PATIENCE = 60


@pytest.fixture
def jobs():
    made = Jobs(io.StringIO())
    yield made
    made.close()


def finished(jobs, job):
    """The status of a job at its end."""
    done = threading.Event()
    while job.state not in ("done", "failed"):
        done.wait(0.01)
    return jobs.status(job)


def test_a_second_request_waits(jobs):
    begun, go, order = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        print("half", flush=True)
        assert go.wait(PATIENCE)
        order.append("slow")
        return 7

    first, second = jobs.add(slow), jobs.add(lambda: order.append("quick"))
    assert begun.wait(PATIENCE)
    assert jobs.status(second)["phase"] == "waiting, 1 before it" and jobs.status(second)["state"] == "waiting"
    status = jobs.status(first)
    assert (status["state"], status["text"], status["result"]) == ("working", "half\n", None)
    assert not order
    go.set()
    assert finished(jobs, second)["state"] == "done"
    assert order == ["slow", "quick"]
    assert jobs.status(first) | {"seconds": 0} == {
        "job": 1, "state": "done", "phase": "", "seconds": 0, "text": "half\n", "error": "", "result": 7,
    }  # fmt: skip


def test_what_fails_is_said_and_the_next_is_done():
    terminal = io.StringIO()
    jobs = Jobs(terminal)

    def refuse():
        raise UserError("seed is 3:\n 4 is expected")

    def fault():
        raise ZeroDivisionError("of jaxgen")

    def leave():
        raise SystemExit(2)

    made = [jobs.add(work) for work in (refuse, fault, leave, lambda: "here")]
    said = [finished(jobs, job) for job in made]
    assert [one["state"] for one in said] == ["failed", "failed", "failed", "done"]
    assert said[0]["error"] == "seed is 3: 4 is expected"
    assert "ZeroDivisionError: of jaxgen" in said[1]["error"] and "fault of jaxgen" in said[2]["error"]
    assert "seed is 3" not in terminal.getvalue() and "Traceback" in terminal.getvalue()
    jobs.close()


def test_too_many_are_refused_and_old_ones_forgotten(jobs, monkeypatch):
    monkeypatch.setattr(queue, "WAITING", 2)
    monkeypatch.setattr(queue, "KEPT", 1)
    go, begun = threading.Event(), threading.Event()
    first = jobs.add(lambda: (begun.set(), go.wait(PATIENCE)))
    assert begun.wait(PATIENCE)
    second, third = jobs.add(int), jobs.add(int)
    with pytest.raises(UserError, match="2 requests wait already"):
        jobs.add(int)
    go.set()
    finished(jobs, third)
    jobs.add(int)
    for forgotten in (first, second):
        with pytest.raises(UserError) as error:
            jobs.get(forgotten.number)
        assert "not kept" in one_line(error)
    assert jobs.get(third.number) is third


def test_compiling_is_said(jobs, monkeypatch):
    """By jax's own events, from before a program is compiled until it is."""
    seen = []
    monkeypatch.setattr(queue, "SHORT", 0.0)

    def heard(event, duration, **_):
        if event == queue.COMPILES:
            seen.append(jobs.status(job)["phase"])

    jax.monitoring.register_event_duration_secs_listener(heard)
    job = jobs.add(lambda: jax.jit(lambda x: x * 3.25 + 1)(jax.numpy.arange(5.0)).block_until_ready())
    assert finished(jobs, job)["state"] == "done"
    assert seen and set(seen) == {"compiling …"}
    assert not jobs._phase.compiling
