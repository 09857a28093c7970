"""The configuration of each Jupyter server of a fleet. It is the same for all of them.

These environment variables say what differs between fleets and machines. All servers of a fleet
have the same values, except for the last two:

NBSESSIONS_STORE_URL        the database (required), for example
                            postgresql://nbsessions:PASSWORD@db.example.org/nbsessions
JUPYTER_GATEWAY_URL         the gateway (required), for example http://gateway.example.org:8889
JUPYTER_GATEWAY_AUTH_TOKEN  the token of the gateway (required)
JUPYTER_TOKEN               what people sign in with (required)
FLEET_NAME                  the namespace of the sessions (fleet)
FLEET_FOLDER                the folder that all servers share (/srv/fleet)
FLEET_IP                    the address to listen on (127.0.0.1)
FLEET_PORT                  the port to listen on (8888)
"""

import os

c = get_config()  # noqa: F821  # Defined by Jupyter.

for name in (
    "NBSESSIONS_STORE_URL",
    "JUPYTER_GATEWAY_URL",
    "JUPYTER_GATEWAY_AUTH_TOKEN",
    "JUPYTER_TOKEN",
):
    if not os.environ.get(name):
        # Jupyter only logs other exceptions, and starts without the rest of this file.
        raise SystemExit(f"The environment variable {name} is not set")

folder = os.environ.get("FLEET_FOLDER", "/srv/fleet")

c.AsyncSessionManager.namespace = os.environ.get("FLEET_NAME", "fleet")

# Every server accepts the cookies of the others. Create this file before the first start.
c.ServerApp.cookie_secret_file = f"{folder}/cookie_secret"

# The balancer passes on the name that the browser uses, and says whether it came by HTTPS.
c.ServerApp.allow_remote_access = True
c.ServerApp.trust_xheaders = True

# The balancer knows the server by this address.
c.ServerApp.ip = os.environ.get("FLEET_IP", "127.0.0.1")
c.ServerApp.port = int(os.environ.get("FLEET_PORT", "8888"))
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False

# Every server has the same documents, settings and layouts.
c.ServerApp.root_dir = f"{folder}/notebooks"
c.LabApp.user_settings_dir = f"{folder}/lab/user-settings"
c.LabApp.workspaces_dir = f"{folder}/lab/workspaces"

# A terminal runs in one server, and the others do not know it.
c.ServerApp.terminals_enabled = False
