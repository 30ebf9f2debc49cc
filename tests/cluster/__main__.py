"""A real Kubernetes on this machine, from its command line.

python -m tests.cluster build     install and build all that it needs; nothing is started
python -m tests.cluster up        boot it, load the images, print what a shell has to export
python -m tests.cluster images    build the images again and load them into the cluster that is up
python -m tests.cluster down      stop every process of it and remove its state (what was built stays)
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping

from tests.cluster import boot
from tests.cluster.host import HostError, say
from tests.cluster.images import build_vllm_image
from tests.cluster.processes import ProcessError


def build() -> None:
    if os.environ.get("KUBECONFIG"):
        say("KUBECONFIG names another cluster: nothing to build")
        return
    boot.build()
    build_vllm_image()
    say(f"built; {boot.disk_use()}")


def up() -> None:
    with boot.the_only_cluster():
        boot.boot()
        boot.stays_up().touch()
    print(boot.exports())


def images() -> None:
    boot.reload_images()
    print(boot.exports())


def down() -> None:
    with boot.the_only_cluster():
        boot.shut_down()


COMMANDS: Mapping[str, Callable[[], None]] = {"build": build, "up": up, "images": images, "down": down}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    command = COMMANDS[parser.parse_args().command]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a half booted cluster is taken away
    try:
        command()
    except (HostError, ProcessError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
