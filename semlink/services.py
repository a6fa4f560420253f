"""The services as their callers see them: protocols, generated from the contracts in ``proto/``.

A service's own class and the gRPC client of that service both satisfy the same protocol, so the lab runs the system
in one process by handing services to each other, and the services run it over gRPC by handing clients: same logic, no
`if`. Every method may raise any :class:`semlink.errors.SemlinkError`. The caller's deadline travels in
:data:`semlink.rpc.deadline`, not in the signatures.
"""

from semlink.v1.services import (
    ChannelService,
    KnowledgeBaseService,
    ReceiverService,
    TransmitterService,
)

__all__ = ["ChannelService", "KnowledgeBaseService", "ReceiverService", "TransmitterService"]
