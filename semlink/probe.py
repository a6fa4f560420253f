"""``python -m semlink.probe HOST:PORT SERVICE``: exit status 0 when the service says SERVING.

Containers run it every few seconds, so it imports gRPC and nothing else of semlink (``semlink.rpc`` takes 0.5 s of a
core to import, this 0.15 s).
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serving(address: str, service: str, timeout_s: float = 5.0) -> bool:
    """Whether grpc.health.v1 at ``address`` answers SERVING for ``service`` within ``timeout_s`` seconds."""
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                request, timeout=timeout_s, wait_for_ready=True
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m semlink.probe HOST:PORT SERVICE")
    sys.exit(not serving(sys.argv[1], sys.argv[2]))
