#!/usr/bin/env python3
"""Many clients at a daemon that searches: tests/load.py [QTUNED] [--seconds 60] [--clients 200] [--streams 50]

The daemon works on a queue of like jobs, one thread for the search. First nobody asks it anything; then clients poll it
once a second each and others follow events. Fails when an answer is not 200, when the evaluation of a trial becomes slower
by a tenth, or when the daemon's memory grows. The clients run on the same machine: what they cost is in the figures.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = ["/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/trials", "/v1/jobs/{id}/report", "/v1/jobs/{id}/groups",
         "/v1/jobs/find", "/readyz", "/metrics", "/", "/app.js"]


def ask(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def job(seed):
    folder = ROOT / "datasets/fashion-mnist"
    images = {"images": str(folder / "t10k-images-idx3-ubyte.gz"), "labels": str(folder / "t10k-labels-idx1-ubyte.gz")}
    return {
        "name": f"load-{seed}",
        "model": {"onnx": str(folder / "model.onnx")},
        "data": {
            "images": {"idx": images},
            "preprocess": {"channels": "gray", "scale": 1 / 255, "mean": [0.286], "std": [0.353]},
            "split": {"calibrate": 64, "search": 4000, "seed": seed},
        },
        "budget": {"max_drop": 0.5},
        "sensitivity": {"samples": 4},
        "search": {"max_trials": 4, "until": "exhausted"},
        "measure": {"latency": {"runs": 3, "warmup": 1}},
    }


def rss(pid):
    """Memory of its own in kB: not the pages of files that it maps."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


class Load:
    def __init__(self, address):
        self.host, self.port = address.rsplit(":", 1)
        self.address, self.current = address, 1
        self.answers, self.events, self.times, self.errors = 0, 0, [], []

    async def request(self, reader, writer, path):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {self.address}\r\n\r\n".encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        if status != 200:
            self.errors.append(f"{path}: {status}")
        return head

    async def poll(self, until):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        await asyncio.sleep(random.random())
        while time.monotonic() < until:
            path = random.choice(PATHS).format(id=self.current)
            since = time.monotonic()
            head = await self.request(reader, writer, path)
            await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
            self.times.append(time.monotonic() - since)
            self.answers += 1
            await asyncio.sleep(0.5 + random.random())
        writer.close()

    async def follow(self, until):
        while time.monotonic() < until:
            followed = self.current
            reader, writer = await asyncio.open_connection(self.host, self.port)
            await self.request(reader, writer, f"/v1/jobs/{followed}/events")
            while time.monotonic() < until:
                try:
                    line = await asyncio.wait_for(reader.readline(), 20)
                except TimeoutError:
                    self.errors.append(f"job {followed}: no sign of life in 20 s")
                    break
                self.events += line.startswith(b"event:")
                if line in (b"0\r\n", b"") or line.startswith(b"event: end"):
                    break
            writer.close()
            # The next stream is one of the job that runs by then.
            await asyncio.sleep(0.5)

    async def guarded(self, work):
        try:
            await work
        except Exception as error:  # every failure is one of the daemon, or of this machine
            self.errors.append(repr(error))

    async def watch(self, until, pid, memory):
        while time.monotonic() < until:
            jobs = await asyncio.to_thread(ask, self.address, "/v1/jobs?state=running")
            if jobs["jobs"]:
                self.current = jobs["jobs"][0]["id"]
            memory.append(rss(pid))
            await asyncio.sleep(1)

    async def run(self, seconds, clients, streams, pid, memory):
        until = time.monotonic() + seconds
        work = [self.poll(until) for _ in range(clients)] + [self.follow(until) for _ in range(streams)]
        work.append(self.watch(until, pid, memory))
        await asyncio.gather(*(self.guarded(one) for one in work))


def seconds_a_sample(address, after_ms, until_ms):
    """Of each trial by its number: the median of what the jobs took."""
    sql = ("SELECT s.number, t.seconds / t.total FROM trial_summary AS s JOIN trials AS t USING (key) "
           f"WHERE t.created_ms BETWEEN {after_ms} AND {until_ms}")
    numbers = {}
    for number, seconds in ask(address, "/v1/query", {"sql": sql})["rows"]:
        numbers.setdefault(number, []).append(seconds)
    return {number: statistics.median(values) for number, values in sorted(numbers.items())}


def milliseconds(seconds):
    return ", ".join(f"{number}: {value * 1e3:.4f}" for number, value in seconds.items())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("qtuned", nargs="?", default=ROOT / "target/release/qtuned")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--streams", type=int, default=50)
    args = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    log = open(Path(folder.name) / "serve.log", "w+")
    daemon = subprocess.Popen([os.path.abspath(args.qtuned), "serve", "--listen", "127.0.0.1:0", "--threads", "1"],
                              cwd=folder.name, stderr=log)
    try:
        while not (found := re.search(r"serving on http://([\d.:]+)", Path(log.name).read_text())):
            time.sleep(0.05)
        address = found[1]
        # More jobs than can be worked on.
        began, jobs = time.monotonic(), 2 * args.seconds
        for seed in range(jobs):
            ask(address, "/v1/jobs", {"job": job(seed)})
        print(f"{jobs} jobs in {time.monotonic() - began:.0f} s")

        def now():
            return int(time.time() * 1000)

        quiet = now()
        time.sleep(args.seconds)
        asked, memory = now(), []
        load = Load(address)
        asyncio.run(load.run(args.seconds, args.clients, args.streams, daemon.pid, memory))
        ended = now()
        before, during = (seconds_a_sample(address, *span) for span in ((quiet, asked), (asked, ended)))
        slower = [during[number] / before[number] for number in before if number in during]
        late = memory[len(memory) // 4:]
        print(f"{load.answers} answers, {load.events} events, {len(load.errors)} errors {load.errors[:5]}")
        times = sorted(load.times)
        print(f"an answer took {times[len(times) // 2] * 1e3:.1f} ms (median), "
              f"{times[len(times) * 99 // 100] * 1e3:.1f} ms (99 of 100)")
        print(f"ms a sample, trial by trial: {milliseconds(before)}, then {milliseconds(during)}")
        print(f"memory of the daemon {memory[0]} kB, then {min(late)} to {max(late)} kB")
        wrong = []
        if load.errors or not load.events or load.answers < args.clients:
            wrong.append("not everybody was answered")
        if not slower or statistics.median(slower) > 1.10:
            wrong.append("the search was slowed by more than a tenth")
        half = len(late) // 2
        if statistics.median(late[half:]) > 1.10 * statistics.median(late[:half]) + 4096:
            wrong.append("memory grows")
        print("; ".join(wrong) or "as it should be")
        return bool(wrong)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)


if __name__ == "__main__":
    sys.exit(main())
