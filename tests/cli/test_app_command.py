"""`jaxgen app` as a command: it says where the page is, ends by Ctrl-C, leaves nothing, and refuses in one line."""

import os
import re
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest
from conftest import first_stage
from messages import one_line

from jaxgen import __main__ as commands
from jaxgen.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return first_stage("vae-smoke-0", tmp_path_factory.mktemp("app"))


def test_the_page_is_there_until_ctrl_c(run, tmp_path):
    words = [sys.executable, "-m", "jaxgen", "app", str(run), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as app:
        assert app.stdout is not None and app.stderr is not None
        line = app.stdout.readline()
        found = re.match(r"open (http://127\.0\.0\.1:\d+/) in a browser", line)
        assert found, line
        with urlopen(found[1]) as answer:
            assert answer.status == 200 and b"<title>jaxgen app</title>" in answer.read()
        app.send_signal(signal.SIGINT)
        assert app.wait(60) == 130
        assert app.stderr.read().strip() == "stopped by SIGINT"
    assert not list(tmp_path.glob("jaxgen-app-*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run folder was named"),
        (["RUN", "RUN"], "was named twice"),
        (["nowhere"], "no run folder"),
        (["RUN", "--prot", "0"], "did you mean --port?"),
        (["RUN", "--port", "70000"], "port is 70000"),
        (["RUN", "--port", "TAKEN"], "cannot be used"),
        (["RUN", "--out", "/proc/given"], "cannot write"),
    ],
)
def test_what_cannot_be_served_is_one_line(words, said, run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"RUN": str(run), "TAKEN": str(taken.getsockname()[1])}
        with pytest.raises(UserError) as error:
            commands.call(["app", *(names.get(word, word) for word in words)])
    assert said in one_line(error)
