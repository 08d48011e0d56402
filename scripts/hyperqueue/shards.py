#!/usr/bin/env python3
"""Runs a config as tasks of HyperQueue on this machine: `shards.py FLOWGAUGE CONFIG DIRECTORY [SHARDS] [WORKERS]`.

A task is one shard. A task that ends with status 75, or whose worker was lost, goes on where it was when it is submitted
again. On a cluster the same tasks are submitted to a server that runs there:

    hq submit --array 0-7 --env FLOWGAUGE_SHARDS=8 flowgauge run CONFIG --out DIRECTORY --shard auto --threads 1
"""

import os
import sys
import tempfile
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.client import FailedJobsException
from hyperqueue.cluster import WorkerConfig


def job_of(program, config, out, shards, chosen, round_number):
    """The job of some shards. Task numbers begin with 0, so that a task names its shard itself when only some are left."""
    job = Job(max_fails=None)
    logs = Path(out).with_name(Path(out).name + ".tasks")
    logs.mkdir(parents=True, exist_ok=True)
    for shard in chosen:
        part = "auto" if len(chosen) == shards else f"{shard + 1}/{shards}"
        # HyperQueue opens one file a stream, each at its beginning: of two streams in one file, the later words cover others.
        stdout, stderr = (str(logs / f"{shard}-{round_number}.{stream}") for stream in ("stdout", "stderr"))
        command = [program, "run", config, "--out", out, "--shard", part, "--threads", "1"]
        job.program(command, env={"FLOWGAUGE_SHARDS": str(shards)}, stdout=stdout, stderr=stderr, name=f"shard{shard + 1}")
    return job


def main():
    program, config, out = (os.path.abspath(word) for word in sys.argv[1:4])
    shards, workers = (int(word) for word in (sys.argv[4:] + ["8", "2"][len(sys.argv[4:]) :])[:2])
    with tempfile.TemporaryDirectory() as folder, LocalCluster(server_dir=folder) as cluster:
        for _ in range(workers):
            cluster.start_worker(WorkerConfig(cores=1))
        client, left = cluster.client(), list(range(shards))
        for round_number in range(5):
            submitted = client.submit(job_of(program, config, out, shards, left, round_number))
            try:
                client.wait_for_jobs([submitted])
                return 0
            except FailedJobsException:
                failed = client.get_failed_tasks(submitted)
                left = [left[task] for task in sorted(failed)]
                print(f"{len(left)} shards are submitted again", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
