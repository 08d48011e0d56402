#!/usr/bin/env python3
"""Runs a config by tasks of Ray that take trials as they go: `claims.py CONFIG DIRECTORY [WORKERS]`.

    ray job submit --working-dir . -- python scripts/ray/claims.py configs/quickstart.yaml reports/quickstart 4

The directory is on a file system that all nodes share. A task that is lost is started again by Ray, and its trial is taken
over by whichever process comes first.
"""

import os
import subprocess
import sys

import ray

PROGRAM = os.environ.get("FLOWGAUGE", "flowgauge")


@ray.remote(num_cpus=1, max_retries=20, retry_exceptions=True)
def work(config, out):
    """One process. Status 75 is raised as an error, after which Ray starts it again."""
    command = [PROGRAM, "run", config, "--out", out, "--claim", "--threads", "1", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 75:
        raise RuntimeError("stopped; the same command goes on")
    # A wrong input or a failed trial stays one, whoever tries it.
    return done.returncode, done.stderr


def main():
    config, out = (os.path.abspath(word) for word in sys.argv[1:3])
    workers = int((sys.argv[3:] + ["4"])[0])
    ray.init()
    ended = ray.get([work.remote(config, out) for _ in range(workers)])
    for message in {message for _, message in ended if message}:
        print(message, file=sys.stderr)
    return max(status for status, _ in ended)


if __name__ == "__main__":
    sys.exit(main())
