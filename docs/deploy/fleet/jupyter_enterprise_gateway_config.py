"""The configuration of the Enterprise Gateway of a fleet.

These environment variables say the rest, and Enterprise Gateway reads them itself:

EG_AUTH_TOKEN   the token that the servers send
EG_IP           the address to listen on (127.0.0.1)
EG_PORT         the port to listen on (8888)
EG_MAX_KERNELS  how many kernels may run (no limit)
"""

c = get_config()  # noqa: F821  # Defined by Jupyter.

# A server then asks for the states of all kernels in one request.
c.EnterpriseGatewayApp.list_kernels = True

# A kernel that has been idle for a day ends, and its sessions with it. Otherwise, the kernel of a
# notebook that somebody has left open runs forever.
c.RemoteMappingKernelManager.cull_idle_timeout = 24 * 3600
c.RemoteMappingKernelManager.cull_connected = True
