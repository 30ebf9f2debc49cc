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
    program = (
        "import sys; from annotationrun_worker.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted({'torch', 'pyarrow', 'av', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    assert "run" in done.stdout + done.stderr
