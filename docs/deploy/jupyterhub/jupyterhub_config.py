"""The configuration of a JupyterHub whose users' servers keep their sessions in PostgreSQL.

These environment variables of the hub say what differs between machines:

NBSESSIONS_STORE_URL  the database (required), for example
                      postgresql://nbsessions:PASSWORD@127.0.0.1:6432/nbsessions
HUB_URL               where browsers find the hub (http://127.0.0.1:8000)
HUB_BIND_URL          where the proxy listens (HUB_URL)
HUB_API_PORT          the port for the hub itself, on the loopback interface (8081)
HUB_PROXY_API_PORT    the port for the proxy's API, on the loopback interface (8001)
HUB_FOLDER            a folder that only the hub can read, for its own database (/srv/jupyterhub)
"""

import os

c = get_config()  # noqa: F821  # Defined by JupyterHub.

url = os.environ.get("HUB_URL", "http://127.0.0.1:8000")
folder = os.environ.get("HUB_FOLDER", "/srv/jupyterhub")

# Servers name their namespace in the database after this address, their user and their own name.
# Without it, they would use the address of the hub's API, which changes more often.
c.JupyterHub.public_url = url

# The database is the same for all servers.
c.Spawner.environment = {"NBSESSIONS_STORE_URL": os.environ["NBSESSIONS_STORE_URL"]}

# Servers and kernels go on while the hub restarts.
c.JupyterHub.cleanup_servers = False

c.JupyterHub.bind_url = os.environ.get("HUB_BIND_URL", url)
c.JupyterHub.hub_port = int(os.environ.get("HUB_API_PORT", "8081"))
api_port = os.environ.get("HUB_PROXY_API_PORT", "8001")
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.pid_file = f"{folder}/proxy.pid"
c.JupyterHub.db_url = f"sqlite:///{folder}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{folder}/cookie_secret"

c.Spawner.default_url = "/lab"

# Who may log in: everybody with an account on this machine. Choose what fits.
c.Authenticator.allow_all = True
