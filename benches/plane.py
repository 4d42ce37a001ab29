"""The control plane of the benchmarks that run whole gateways, which none of the environment's settings reach."""

import json
import os
import re
from http.server import BaseHTTPRequestHandler

# Whoever measures may use wakegate, too.
for setting in [name for name in os.environ if name.startswith(("WAKEGATE_", "HYPEMAN_"))]:
    del os.environ[setting]


class Plane(BaseHTTPRequestHandler):
    """A control plane whose instances never sleep: a warm request does not ask it."""

    protocol_version = "HTTP/1.1"

    @staticmethod
    def instance(name):
        return {
            "id": f"{name:0<24}", "name": name, "image": "bench", "state": "Running",
            "created_at": "2026-01-01T00:00:00Z", "network": {"ip": "127.0.0.1"},
        }

    def do_GET(self):
        # By name, or by the id, which is the name with zeros after it.
        asked = re.match(r"/instances/([a-z0-9]+)", self.path)
        self.answer(self.instance(asked[1].rstrip("0")) if asked else [self.instance("bench")])

    def do_POST(self):
        """A hold: these instances have no policy, so there is nothing to hold."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer({
            "supported": True, "configured": False, "enabled": False, "eligible": False,
            "status": "disabled", "reason": "policy_missing",
            "active_inbound_connections": 0, "tracking_mode": "conntrack_events_v4_tcp",
        })

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
