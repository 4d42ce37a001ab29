"""Counts its calls in memory. Messages are plain text, so that no generated code is needed."""

import os
import threading
from concurrent import futures

import grpc

lock = threading.Lock()
calls = 0


def count(request, context):
    global calls
    with lock:
        calls += 1
        return f"call {calls}".encode()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handlers = {"Count": grpc.unary_unary_rpc_method_handler(count)}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("example.Counter", handlers)]
    )
    server.add_insecure_port(f"[::]:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
