"""The SQL statements of the PostgreSQL store, except those that create its tables."""

from __future__ import annotations

# Transactions

BEGIN = """BEGIN;
    SET LOCAL lock_timeout = '4s';
    SET LOCAL statement_timeout = '5s';
    SET LOCAL idle_in_transaction_session_timeout = '2s'"""
"""Begins a transaction that cannot stop others for long, even if its server stalls."""

# Sessions

SESSION_COLUMNS = (
    "seq, session_id, scope, provider, path, name, type, kernel_id, kernel_name, "
    "created, last_activity"
)
SELECT_SESSIONS = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s ORDER BY seq"""
SELECT_SESSION = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s AND session_id = %s"""
SELECT_BY_DOCUMENT = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s
    AND left(document, 300) = left(%s, 300) AND document = %s ORDER BY seq LIMIT 1"""
SELECT_WITHIN = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s
    AND (document = %s OR (document > %s AND document < %s)) ORDER BY seq"""
SELECT_BY_KERNEL = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s AND kernel_id = %s ORDER BY seq"""
SELECT_BY_KERNELS_ELSEWHERE = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope <> %s AND kernel_id = ANY(%s) ORDER BY seq"""
SELECT_OF_SCOPES = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = ANY(%s) ORDER BY seq"""
SELECT_ANY_BY_KERNEL = """SELECT 1 FROM nbsessions_session
    WHERE namespace = %s AND kernel_id = %s"""
COUNT_BY_KERNEL = """SELECT COUNT(*) FROM nbsessions_session
    WHERE namespace = %s AND scope = %s AND kernel_id = %s"""
INSERT_SESSION = """WITH claimed AS (INSERT INTO nbsessions_kernel (kernel_id, namespace)
        VALUES (%(kernel_id)s, %(namespace)s) ON CONFLICT DO NOTHING)
    INSERT INTO nbsessions_session
    (namespace, session_id, scope, provider, path, document, name, type, kernel_id,
    kernel_name, created, last_activity)
    VALUES (%(namespace)s, %(session_id)s, %(scope)s, %(provider)s, %(path)s, %(document)s,
    %(name)s, %(type)s, %(kernel_id)s, %(kernel_name)s, %(created)s, %(last_activity)s)
    ON CONFLICT (namespace, session_id) DO NOTHING RETURNING seq"""
UPDATE_SESSION = """WITH claimed AS (INSERT INTO nbsessions_kernel (kernel_id, namespace)
        VALUES (%(kernel_id)s, %(namespace)s) ON CONFLICT DO NOTHING)
    UPDATE nbsessions_session SET provider = %(provider)s, path = %(path)s,
    document = %(document)s, name = %(name)s, type = %(type)s, kernel_id = %(kernel_id)s,
    kernel_name = %(kernel_name)s, last_activity = %(last_activity)s
    WHERE namespace = %(namespace)s AND seq = %(seq)s"""
ADOPT_SESSION = """UPDATE nbsessions_session SET scope = %s, provider = %s
    WHERE namespace = %s AND session_id = %s AND scope = %s"""
DELETE_SESSION = "DELETE FROM nbsessions_session WHERE namespace = %s AND seq = %s"
DELETE_BY_ID = "DELETE FROM nbsessions_session WHERE namespace = %s AND session_id = %s"
DELETE_ORPHAN = """DELETE FROM nbsessions_session
    WHERE namespace = %s AND session_id = %s AND scope = %s AND kernel_id = %s"""
DELETE_SCOPE = "DELETE FROM nbsessions_session WHERE namespace = %s AND scope = %s"

# Kernel ids

CLAIM_KERNEL = """INSERT INTO nbsessions_kernel (kernel_id, namespace) VALUES (%s, %s)
    ON CONFLICT DO NOTHING"""
HAS_KERNEL = "SELECT 1 FROM nbsessions_kernel WHERE kernel_id = %s AND namespace = %s"
FORGET_KERNELS = """DELETE FROM nbsessions_kernel AS kernel WHERE namespace = %(namespace)s
    AND NOT EXISTS (SELECT 1 FROM nbsessions_session AS session
    WHERE session.namespace = %(namespace)s AND session.kernel_id = kernel.kernel_id)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.namespace = %(namespace)s AND intent.kernel_id = kernel.kernel_id)"""

# Intents

INTENT_COLUMNS = "token, verb, scope, document, kernel_id, lease_until, owner"
SELECT_INTENTS = f"""SELECT {INTENT_COLUMNS} FROM nbsessions_intent
    WHERE namespace = %s AND scope = %s ORDER BY seq"""
SELECT_INTENTS_OF_OWNERS = f"""SELECT {INTENT_COLUMNS} FROM nbsessions_intent
    WHERE namespace = %s AND owner = ANY(%s) AND scope IN (owner, %s) ORDER BY seq"""
SELECT_INTENT = f"SELECT {INTENT_COLUMNS} FROM nbsessions_intent WHERE token = %s"
SELECT_OPEN_INTENT = """SELECT 1 FROM nbsessions_intent
    WHERE namespace = %s AND kernel_id = %s AND verb <> 'ended'"""
SELECT_RECENT_INTENT = """SELECT 1 FROM nbsessions_intent
    WHERE namespace = %s AND kernel_id = %s AND (verb <> 'ended' OR lease_until >= %s)"""
INSERT_INTENT = """INSERT INTO nbsessions_intent
    (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
LOSE_STARTS = """UPDATE nbsessions_intent SET verb = 'lost' WHERE namespace = %s AND scope = %s
    AND left(document, 300) = left(%s, 300) AND document = %s
    AND verb = 'start' AND NOT lease_until BETWEEN %s AND %s"""
RENEW_START = """UPDATE nbsessions_intent SET lease_until = %s
    WHERE token = %s AND verb = 'start'"""
CLAIM_INTENT = """UPDATE nbsessions_intent
    SET owner = %s, verb = CASE verb WHEN 'start' THEN 'lost' ELSE verb END
    WHERE token = %s AND owner = %s"""
END_STOP = """UPDATE nbsessions_intent SET verb = 'ended', lease_until = %s
    WHERE token = %s AND verb = 'stop'"""
DELETE_INTENT = "DELETE FROM nbsessions_intent WHERE token = %s"
DELETE_INTENT_OF_VERB = "DELETE FROM nbsessions_intent WHERE token = %s AND verb = %s"
DELETE_INTENTS_OF_OWNER = "DELETE FROM nbsessions_intent WHERE owner = %s"
DELETE_ENDED = """DELETE FROM nbsessions_intent
    WHERE namespace = %s AND kernel_id = %s AND verb = 'ended'"""
DELETE_ENDED_BEFORE = """DELETE FROM nbsessions_intent
    WHERE namespace = %s AND scope = %s AND verb = 'ended' AND lease_until < %s"""

# Starts that can be shared

SELECT_SHARED = """SELECT shared.kernel_id FROM nbsessions_shared AS shared
    LEFT JOIN nbsessions_intent AS intent ON intent.token = shared.token
    AND intent.verb = 'start' AND intent.lease_until BETWEEN %s AND %s
    WHERE shared.namespace = %s AND shared.scope = %s AND shared.sharing_key = %s
    AND ((shared.kernel_id IS NULL AND intent.token IS NOT NULL)
    OR (shared.kernel_id IS NOT NULL AND shared.until BETWEEN %s AND %s))"""
PUT_SHARED = """INSERT INTO nbsessions_shared (namespace, scope, sharing_key, token, until)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT (namespace, scope, sharing_key)
    DO UPDATE SET token = excluded.token, until = excluded.until, kernel_id = NULL"""
COMPLETE_SHARED = """UPDATE nbsessions_shared SET kernel_id = %s, until = %s
    WHERE namespace = %s AND scope = %s AND sharing_key = %s AND token = %s"""
DELETE_SHARED_BEFORE = "DELETE FROM nbsessions_shared WHERE namespace = %s AND until < %s"

# Endings

ENDING_COLUMNS = "session_id, reason, ended"
# One statement, because a session may end between two of them.
SELECT_WHEREABOUTS = """SELECT session_id, scope, NULL AS reason, NULL AS ended
    FROM nbsessions_session WHERE namespace = %(namespace)s AND session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, NULL, reason, ended
    FROM nbsessions_ending WHERE namespace = %(namespace)s AND session_id = ANY(%(ids)s)
    AND ended >= clock_timestamp() - %(kept_for)s"""
INSERT_ENDING = """INSERT INTO nbsessions_ending (namespace, session_id, reason, ended)
    VALUES (%s, %s, %s, %s) ON CONFLICT (namespace, session_id)
    DO UPDATE SET reason = excluded.reason, ended = excluded.ended"""
DELETE_ENDING = "DELETE FROM nbsessions_ending WHERE namespace = %s AND session_id = %s"
DELETE_ENDINGS_BEFORE = "DELETE FROM nbsessions_ending WHERE namespace = %s AND ended < %s"

# Owners

_HAS_LEFT_NOTHING = """NOT EXISTS (SELECT 1 FROM nbsessions_session AS session
    WHERE session.namespace = nbsessions_owner.namespace
    AND session.scope = nbsessions_owner.owner)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.owner = nbsessions_owner.owner)
    AND (scope = owner OR EXISTS (SELECT 1 FROM nbsessions_owner AS later
    WHERE later.namespace = nbsessions_owner.namespace AND later.scope = nbsessions_owner.scope
    AND (COALESCE(later.stopped, later.heartbeat), later.owner)
    > (COALESCE(nbsessions_owner.stopped, nbsessions_owner.heartbeat), nbsessions_owner.owner))
    OR NOT EXISTS (SELECT 1 FROM nbsessions_session AS shared
    WHERE shared.namespace = nbsessions_owner.namespace AND shared.scope = nbsessions_owner.scope)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS open
    WHERE open.namespace = nbsessions_owner.namespace AND open.scope = nbsessions_owner.scope
    AND open.verb <> 'ended'))"""
"""Of a shared scope that has something left, the last owner stays: it tells since when."""

_OTHER_OWNER = """owner, provider, host, boot, process, scope <> owner AS shares,
    stopped IS NOT NULL AS stopped, clock_timestamp() - heartbeat AS silent"""
SELECT_OTHER_OWNERS = f"""SELECT {_OTHER_OWNER} FROM nbsessions_owner
    WHERE namespace = %s AND owner <> %s AND scope IN (owner, %s)"""
_SHARER = f"""SELECT {_OTHER_OWNER}, scope = %(scope)s AS serves,
    clock_timestamp() - COALESCE(stopped, heartbeat) AS unseen, namespace
    FROM nbsessions_owner WHERE owner <> %(owner)s
    AND (scope = %(scope)s OR EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.owner = nbsessions_owner.owner AND intent.scope = %(scope)s
    AND intent.verb <> 'ended'))"""
SELECT_SHARERS = f"{_SHARER} AND namespace = %(namespace)s"
SELECT_SHARERS_ELSEWHERE = f"{_SHARER} AND namespace <> %(namespace)s"
SELECT_SHARED_KERNELS_ELSEWHERE = """SELECT namespace, kernel_id FROM nbsessions_session
    WHERE scope = %(scope)s AND namespace <> %(namespace)s
    UNION SELECT namespace, kernel_id FROM nbsessions_intent
    WHERE scope = %(scope)s AND namespace <> %(namespace)s AND verb <> 'ended'
    AND kernel_id IS NOT NULL"""
REGISTER_OWNER = """INSERT INTO nbsessions_owner
    (owner, namespace, scope, provider, host, boot, process, heartbeat, written)
    VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp(), 0)
    ON CONFLICT (owner) DO UPDATE SET heartbeat = excluded.heartbeat, stopped = NULL"""
STOP_OWNER = "UPDATE nbsessions_owner SET stopped = clock_timestamp() WHERE owner = %s"
SIGN_WRITE = """UPDATE nbsessions_owner SET written = %s
    WHERE owner = %s AND stopped IS NULL AND written >= %s"""
BEAT = """UPDATE nbsessions_owner SET heartbeat = clock_timestamp()
    WHERE owner = %s AND stopped IS NULL AND written >= %s"""
SELECT_WRITTEN = "SELECT written FROM nbsessions_owner WHERE owner = %s"
_ABANDONED = """SELECT owner FROM nbsessions_owner
    WHERE namespace = %(namespace)s AND heartbeat < clock_timestamp() - %(after)s"""
DELETE_ABANDONED = (
    f"""DELETE FROM nbsessions_session WHERE namespace = %(namespace)s
    AND scope IN ({_ABANDONED})""",
    # Open intents of a shared scope stay, like its sessions.
    f"""DELETE FROM nbsessions_intent WHERE owner IN ({_ABANDONED})
    AND (scope = owner OR verb = 'ended')""",
    f"DELETE FROM nbsessions_owner WHERE owner IN ({_ABANDONED}) AND {_HAS_LEFT_NOTHING}",
)
DELETE_BARE_OWNER = f"DELETE FROM nbsessions_owner WHERE owner = %s AND {_HAS_LEFT_NOTHING}"

# Namespaces

# The first statement of every write. The row is the lock of the namespace.
LOCK_NAMESPACE = """INSERT INTO nbsessions_namespace (namespace, writes, revision)
    VALUES (%s, 1, 0)
    ON CONFLICT (namespace) DO UPDATE SET writes = nbsessions_namespace.writes + 1
    RETURNING writes, revision, clock_timestamp()"""
RAISE_WRITES_OVER = """UPDATE nbsessions_namespace SET writes = GREATEST(writes, %s + 1)
    WHERE namespace = %s RETURNING writes"""
RAISE_REVISION = "UPDATE nbsessions_namespace SET revision = writes WHERE namespace = %s"
SELECT_VERSION = """SELECT
    COALESCE((SELECT revision FROM nbsessions_namespace WHERE namespace = %s), 0),
    (SELECT written FROM nbsessions_owner WHERE owner = %s AND stopped IS NULL)"""
# One statement, so that the version and the sessions are of one moment.
SELECT_SNAPSHOT = f"""WITH version AS ({SELECT_VERSION})
    SELECT version.*, session.* FROM version AS version (revision, written)
    LEFT JOIN (SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = %s AND scope = %s) AS session ON true ORDER BY session.seq"""
