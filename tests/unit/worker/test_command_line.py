import inspect
import subprocess
import sys

import pytest
import typer
from tests.support.run_world import CACHED_MODEL
from tests.unit.operator.test_jobs import containers, made
from typer.testing import CliRunner

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
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


@pytest.mark.parametrize("arguments", [["validate", "/x"], ["run", "--help"]], ids=["call", "help"])
def test_a_command_without_its_packages_says_how_to_get_them(arguments):
    """As after a plain `pip install annotationrun`, which has what every command's help needs."""
    program = (
        "import sys; sys.modules['pyarrow'] = None\nfrom annotationrun_worker.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr == (
        f"annotationrun: the command {arguments[0]!r} needs the package 'pyarrow', which is not installed; "
        "install what the commands need: pip install 'annotationrun[run]'\n"
    )


def test_no_command_imports_openai_before_a_client_is_made():
    """It takes as long as all the rest, and most commands ask nothing."""
    program = (
        "import sys; from annotationrun_worker.command_line import COMMANDS, load_command\n"
        "for name in COMMANDS: load_command(name)\n"
        "print('annotationrun_worker.pipeline.steps' in sys.modules, 'openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr


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
    command = [sys.executable, "-c", program.removesuffix("main()")]
    plain = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "taken apart" in plain.stdout, "as the interpreter does where it is left to it"


@pytest.mark.parametrize("step", Step)
def test_the_commands_know_the_options_that_the_operator_gives_them(step):
    serving = {**CACHED_MODEL["serving"], "localMedia": True}
    annotations = {"annotationrun.dev/requested-at": "now"}
    job = made(
        step,
        annotations=annotations,
        commit="c" * 40,
        source_commit="d" * 40,
        model_commit="e" * 40,
        model={**CACHED_MODEL, "serving": serving},
    )
    command, *options = containers(job)["worker"]["args"]
    app = typer.Typer()
    app.command()(load_command(command))
    done = CliRunner().invoke(app, [*options, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: " in done.output
    refused = CliRunner().invoke(app, [*options, "--no-such-option", "--help"])
    assert refused.exit_code == 2
