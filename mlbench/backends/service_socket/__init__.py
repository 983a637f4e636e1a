"""The socket to the service: where it lies, who may speak, what is said, and a client for each kind of caller.

`connect` finds the service of this user, or starts it, and returns a `ServiceClient`. An event loop uses
`AsyncServiceClient.connect` instead. Both know what to do when the two ends are of different versions.
"""

from mlbench.backends.service_socket.client import ServiceClient, connect
from mlbench.backends.service_socket.door import Door, Role, ServiceInfo, installed_version
from mlbench.backends.service_socket.loop import AsyncServiceClient
from mlbench.backends.service_socket.start import end_by_force

__all__ = [
    "AsyncServiceClient",
    "Door",
    "Role",
    "ServiceClient",
    "ServiceInfo",
    "connect",
    "end_by_force",
    "installed_version",
]
