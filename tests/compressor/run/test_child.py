from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from compressor.contracts import Message
from compressor.errors import ChildFailed, GateStopped
from compressor.run.child import in_child


def say(text, *, tell):
    tell(Message(text))
    print("noise")  # noqa: T201 - what a library might do
    return text, os.getpid()


def stop(*, tell):
    raise GateStopped("not met")


def divide(*, tell):
    return 1 / 0


def die(*, tell):
    os._exit(7)


def test_child_is_another_process_whose_events_and_answer_arrive(capfd):
    heard = []
    text, pid = in_child(say, "hello", tell=heard.append)
    assert (text, heard) == ("hello", [Message("hello")])
    assert pid != os.getpid()
    assert "noise" not in capfd.readouterr().out


def test_child_hands_on_the_text_and_exit_code_of_its_error():
    with pytest.raises(ChildFailed, match="not met") as found:
        in_child(stop, tell=lambda event: None)
    assert found.value.exit_code == GateStopped.exit_code


def test_child_shows_the_traceback_of_an_error_that_nobody_foresaw():
    with pytest.raises(ChildFailed, match=r"1 / 0(.|\n)*ZeroDivisionError") as found:
        in_child(divide, tell=lambda event: None)
    assert found.value.exit_code == 1


def test_child_that_dies_is_told_with_its_exit_code():
    with pytest.raises(ChildFailed, match="ended with exit code 7"):
        in_child(die, tell=lambda event: None)


def work_for_long(folder, *, tell):
    tell(Message(str(os.getpid())))
    for number in range(600):
        (folder / str(number)).write_text("")
        time.sleep(0.1)


def start_another(folder, *, tell):
    def heard(event):
        (folder / "started").write_text(event.text)
        tell(event)

    try:
        in_child(work_for_long, folder, tell=heard, method="fork")
    finally:
        (folder / "ended").write_text(f"{psutil.pid_exists(int((folder / 'started').read_text()))}")


def test_interrupted_no_process_is_left_that_another_one_started(tmp_path):
    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_child(start_another, tmp_path, tell=interrupted, method="fork")
    assert (tmp_path / "ended").read_text() == "False"
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))


@pytest.mark.parametrize(("platform", "left"), [("linux", "ignored"), ("darwin", "ends")])
def test_process_ignores_an_interruption_only_where_it_ends_with_the_one_that_asked(monkeypatch, platform, left):
    monkeypatch.setattr("sys.platform", platform)

    def interrupt(*, tell):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return "ignored"

    if left == "ignored":
        assert in_child(interrupt, tell=lambda event: None, method="fork") == left
    else:
        with pytest.raises(ChildFailed, match="ended with exit code 130"):
            in_child(interrupt, tell=lambda event: None, method="fork")
