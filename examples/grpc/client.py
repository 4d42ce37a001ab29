"""Calls the counter at ADDRESS:PORT once, and prints its answer."""

import sys

import grpc


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        count = channel.unary_unary("/example.Counter/Count")
        print(count(b"", timeout=30, wait_for_ready=True).decode())


if __name__ == "__main__":
    main()
