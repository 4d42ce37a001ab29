"""Counts its requests in memory."""

import os
import threading

from flask import Flask, Response

app = Flask(__name__)
lock = threading.Lock()
requests = 0


@app.get("/")
def count():
    global requests
    with lock:
        requests += 1
        return Response(f"request {requests}\n", mimetype="text/plain")


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ["PORT"]))
