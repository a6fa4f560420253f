"""gRPC runtime of every service: serving a service, calling a service, errors and deadlines across the wire."""

from semlink.deadlines import check_deadline, deadline, deadline_in, remaining_s
from semlink.rpc.clients import (
    ChannelClient,
    KnowledgeClient,
    ReceiverClient,
    ServiceClient,
    TransmitterClient,
)
from semlink.rpc.server import RunningServer, grpc_servicer, serve, start_server
from semlink.rpc.status import FIELD_KEY, MAX_MESSAGE_BYTES, SERVICES

__all__ = [
    "FIELD_KEY",
    "MAX_MESSAGE_BYTES",
    "SERVICES",
    "ChannelClient",
    "KnowledgeClient",
    "ReceiverClient",
    "RunningServer",
    "ServiceClient",
    "TransmitterClient",
    "check_deadline",
    "deadline",
    "deadline_in",
    "grpc_servicer",
    "remaining_s",
    "serve",
    "start_server",
]
