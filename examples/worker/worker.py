"""Works on jobs, and keeps its instance awake while it does.

POST /jobs?seconds=20 begins a job, and GET / says what it has done. A job goes on when nobody talks to the instance any
more, so it holds the instance awake at the gateway's door for workloads ([workload] address), and the last one says that
the instance may sleep now.
"""

import http.client
import json
import os
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DOOR = os.environ.get("DOOR", "127.0.0.1:9911")
# A virtual machine comes from its own address. Processes of the local control plane share their machine's, and each has
# an address that leads to it: it is known by that one.
HOST = os.environ.get("HOST", "")
SOURCE = (HOST.replace("127.78.", "127.77.", 1), 0) if HOST.startswith("127.78.") else None

lock = threading.Lock()
requests, begun, working, done = 0, 0, 0, 0


def tell(method, path, body=None):
    """Tells the gateway something; without a gateway the work goes on, and may be asleep for a while."""
    connection = http.client.HTTPConnection(DOOR, timeout=10, source_address=SOURCE)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        if answer.status >= 400:
            print(method, path, answer.status, answer.read().decode(), flush=True)
    except OSError as error:
        print("no door at", DOOR, error, flush=True)
    finally:
        connection.close()


def work(name, seconds):
    global working, done
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        # Said again and again, and each time for a little longer than that: a crash costs half a minute.
        tell("PUT", f"/holds/{name}", {"for": "30s"})
        time.sleep(min(left, 10))
    tell("DELETE", f"/holds/{name}")
    with lock:
        working, done = working - 1, done + 1
        is_last = working == 0
    if is_last:
        tell("POST", "/idle")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global requests
        with lock:
            requests += 1
            self.answer(200, f"request {requests}: {working} jobs under way, {done} done\n")

    def do_POST(self):
        global begun, working
        url = urllib.parse.urlsplit(self.path)
        seconds = float(urllib.parse.parse_qs(url.query).get("seconds", ["20"])[0])
        with lock:
            begun, working = begun + 1, working + 1
            name = f"job-{begun}"
        threading.Thread(target=work, args=(name, seconds)).start()
        self.answer(202, f"{name} takes {seconds} s\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
