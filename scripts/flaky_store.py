#!/usr/bin/env python3
"""A proxy before a local object store that does what networks and busy stores do, at random with a seed: faults (500, 503),
slow answers, uploads torn in the middle, and answers that are lost after the store has done what it was asked.

`flaky_store.py PORT --rate R --seed S` forwards to the store at PORT and prints its own port. `GET /__counts` tells the
requests by what they were for. Creating an object that is not there is done one at a time, since a store promises that
exactly one of several processes succeeds, and the stand-in behind the proxy checks and writes in two steps."""

import argparse
import collections
import http.client
import http.server
import json
import random
import socket
import threading
import time

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options = None
    random = None
    lock = threading.Lock()
    creating = threading.Lock()
    counts = collections.Counter()
    faults = collections.Counter()

    def log_message(self, *arguments):
        pass

    def kind(self):
        """What a request is for: its method and the folder of the run."""
        path, _, query = self.path.partition("?")
        parts = path.strip("/").split("/")
        if "list-type=2" in query:
            return "LIST"
        known = ("commits", "claims", "workers", "arrays", "tables", "plots", "plan.json", "config.yaml", "index.html")
        return f"{self.command} {next((part for part in parts if part in known), 'other')}"

    def dice(self):
        """The fault of this request, or none."""
        with self.lock:
            roll, rate = self.random.random(), self.options.rate
            kinds = ["500", "503", "slow"] + (["torn", "lost"] if self.command == "PUT" else ["cut"])
            fault = kinds[int(roll / rate * len(kinds))] if roll < rate else None
            self.counts[self.kind()] += 1
            if fault:
                self.faults[fault] += 1
        return fault

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/__counts":
            with self.lock:
                text = json.dumps({"counts": self.counts, "faults": self.faults})
                self.counts.clear()
                self.faults.clear()
            return self.answer(200, [], text.encode())
        fault = self.dice()
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            return self.answer(int(fault), [], f"<Error><Code>{code}</Code></Error>".encode())
        if fault == "slow":
            time.sleep(self.random.uniform(0.2, 2.0))
        if fault == "torn":
            self.tear(body)
            return self.drop()
        creates = self.headers.get("If-None-Match") == "*"
        if creates:
            with self.creating:
                status, headers, content = self.forward(body)
        else:
            status, headers, content = self.forward(body)
        if fault == "lost":
            return self.drop()
        self.answer(status, headers, content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request

    def sent_headers(self):
        """The headers of the request for the store behind."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP | {"host"}}
        if self.options.unconditional:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        headers["Host"] = f"127.0.0.1:{self.options.port}"
        return headers

    def forward(self, body):
        """The answer of the store behind."""
        connection = http.client.HTTPConnection("127.0.0.1", self.options.port, timeout=60)
        connection.request(self.command, self.path, body=body or None, headers=self.sent_headers())
        answer = connection.getresponse()
        content = answer.read()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP | {"content-length", "date", "server"}]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        connection.close()
        return answer.status, headers, content

    def tear(self, body):
        """Sends half of an upload to the store behind, and no more."""
        lines = [f"{self.command} {self.path} HTTP/1.1"] + [f"{k}: {v}" for k, v in self.sent_headers().items()]
        with socket.create_connection(("127.0.0.1", self.options.port), timeout=60) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])

    def drop(self):
        """Closes the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status, headers, content, cut=False):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and len(content) > 1:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self.drop()
        self.wfile.write(content)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, address):
        """Killed processes leave broken connections, which are no faults."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="the port of the store")
    parser.add_argument("--rate", type=float, default=0.0, help="the share of requests with a fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unconditional", action="store_true", help="be a store that ignores If-None-Match")
    Proxy.options = parser.parse_args()
    Proxy.random = random.Random(Proxy.options.seed)
    server = Server(("127.0.0.1", 0), Proxy)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
