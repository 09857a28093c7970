"""The configuration of the Kernel Gateway of a fleet.

These environment variables say the rest, and Kernel Gateway reads them itself:

KG_AUTH_TOKEN   the token that the servers send
KG_IP           the address to listen on (127.0.0.1)
KG_PORT         the port to listen on (8888)
KG_MAX_KERNELS  how many kernels may run (no limit)
"""

c = get_config()  # noqa: F821  # Defined by Jupyter.

# A server then asks for the states of all kernels in one request.
c.JupyterWebsocketPersonality.list_kernels = True

# A kernel that has been idle for a day ends, and its sessions with it. Otherwise, the kernel of a
# notebook that somebody has left open runs forever.
c.MappingKernelManager.cull_idle_timeout = 24 * 3600
c.MappingKernelManager.cull_connected = True
