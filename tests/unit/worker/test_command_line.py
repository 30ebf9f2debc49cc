import inspect
import subprocess
import sys

import pytest

from annotationrun_worker.command_line import COMMANDS, load_command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_commands_say(name):
    assert (inspect.getdoc(load_command(name)) or "").splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("arguments", [["--help"], [], ["rnu"]], ids=["help", "nothing", "a typo"])
def test_without_a_command_nothing_heavy_is_imported(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "annotationrun_worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & {"torch", "pyarrow", "av", "openai"}
    assert "run" in done.stdout + done.stderr


def test_the_process_ends_without_taking_the_interpreter_apart():
    """Python would end the threads of libraries that still run then, and that aborts the process."""
    program = (
        "import atexit; from annotationrun_worker.__main__ import main\n"
        "atexit.register(print, 'taken apart')\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert "taken apart" not in done.stdout
