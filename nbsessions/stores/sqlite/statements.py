"""The SQL statements of the SQLite store, except those that create and repair its tables."""

from __future__ import annotations

# Sessions

SESSION_COLUMNS = (
    "seq, session_id, scope, provider, path, name, type, kernel_id, kernel_name, "
    "created, last_activity"
)
SELECT_SESSIONS = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? ORDER BY seq"""
SELECT_SESSION = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND session_id = ?"""
SELECT_BY_DOCUMENT = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND document = ? ORDER BY seq"""
SELECT_WITHIN = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ?
    AND (document = ? OR (document > ? AND document < ?)) ORDER BY seq"""
SELECT_BY_KERNEL = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND kernel_id = ?"""
SELECT_BY_KERNEL_ELSEWHERE = f"""SELECT {SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope <> ? AND kernel_id = ?"""
SELECT_ANY_BY_KERNEL = "SELECT 1 FROM nbsessions_session WHERE kernel_id = ?"
SELECT_FOREIGN_KERNEL = """SELECT 1 FROM nbsessions_session
    WHERE kernel_id = ? AND namespace <> ?
    UNION ALL SELECT 1 FROM nbsessions_intent WHERE kernel_id = ? AND namespace <> ?"""
COUNT_BY_KERNEL = """SELECT COUNT(*) FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND kernel_id = ?"""
INSERT_SESSION = """INSERT INTO nbsessions_session
    (namespace, session_id, scope, provider, path, document, name, type, kernel_id,
    kernel_name, created, last_activity)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE_SESSION = """UPDATE nbsessions_session SET provider = ?, path = ?, document = ?,
    name = ?, type = ?, kernel_id = ?, kernel_name = ?, last_activity = ? WHERE seq = ?"""
ADOPT_SESSION = """UPDATE nbsessions_session SET scope = ?, provider = ?
    WHERE namespace = ? AND session_id = ? AND scope = ?"""
DELETE_SESSION = "DELETE FROM nbsessions_session WHERE seq = ?"
DELETE_BY_ID = "DELETE FROM nbsessions_session WHERE namespace = ? AND session_id = ?"
DELETE_ORPHAN = """DELETE FROM nbsessions_session
    WHERE namespace = ? AND session_id = ? AND scope = ? AND kernel_id = ?"""
DELETE_SCOPE = "DELETE FROM nbsessions_session WHERE namespace = ? AND scope = ?"
DELETE_SCOPE_EVERYWHERE = "DELETE FROM nbsessions_session WHERE scope = ?"
DELETE_UNOWNED_SESSIONS = """DELETE FROM nbsessions_session WHERE last_activity < ?
    AND scope NOT IN (SELECT owner FROM nbsessions_owner)
    AND scope NOT IN (SELECT scope FROM nbsessions_owner)"""

# Intents

INTENT_COLUMNS = "token, verb, scope, document, kernel_id, lease_until, owner"
SELECT_INTENTS = f"""SELECT {INTENT_COLUMNS} FROM nbsessions_intent
    WHERE namespace = ? AND scope = ? ORDER BY rowid"""
SELECT_INTENTS_OF_OWNER = f"""SELECT {INTENT_COLUMNS} FROM nbsessions_intent
    WHERE namespace = ? AND owner = ? AND scope IN (owner, ?) ORDER BY rowid"""
SELECT_INTENT = f"SELECT {INTENT_COLUMNS} FROM nbsessions_intent WHERE token = ?"
SELECT_OPEN_INTENT = "SELECT 1 FROM nbsessions_intent WHERE kernel_id = ? AND verb <> 'ended'"
SELECT_RECENT_INTENT = """SELECT 1 FROM nbsessions_intent
    WHERE kernel_id = ? AND (verb <> 'ended' OR lease_until >= ?)"""
INSERT_INTENT = """INSERT OR IGNORE INTO nbsessions_intent
    (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
LOSE_STARTS = """UPDATE nbsessions_intent SET verb = 'lost' WHERE namespace = ? AND scope = ?
    AND document = ? AND verb = 'start' AND NOT lease_until BETWEEN ? AND ?"""
RENEW_START = """UPDATE nbsessions_intent SET lease_until = ?
    WHERE token = ? AND verb = 'start'"""
CLAIM_INTENT = """UPDATE nbsessions_intent
    SET owner = ?, verb = CASE verb WHEN 'start' THEN 'lost' ELSE verb END
    WHERE token = ? AND owner = ?"""
END_STOP = """UPDATE nbsessions_intent SET verb = 'ended', lease_until = ?
    WHERE token = ? AND verb = 'stop'"""
DELETE_INTENT = "DELETE FROM nbsessions_intent WHERE token = ?"
DELETE_INTENT_OF_VERB = "DELETE FROM nbsessions_intent WHERE token = ? AND verb = ?"
DELETE_INTENTS_OF_OWNER = "DELETE FROM nbsessions_intent WHERE owner = ?"
DELETE_INTENTS_OF_ABANDONED = """DELETE FROM nbsessions_intent
    WHERE owner = ? AND (scope = owner OR verb = 'ended')"""
DELETE_ENDED = "DELETE FROM nbsessions_intent WHERE kernel_id = ? AND verb = 'ended'"
DELETE_ENDED_BEFORE = """DELETE FROM nbsessions_intent
    WHERE namespace = ? AND scope = ? AND verb = 'ended' AND lease_until < ?"""
DELETE_UNOWNED_INTENTS = """DELETE FROM nbsessions_intent WHERE lease_until < ?
    AND owner NOT IN (SELECT owner FROM nbsessions_owner)"""

# Starts that can be shared

SELECT_SHARED = """SELECT shared.kernel_id FROM nbsessions_shared AS shared
    LEFT JOIN nbsessions_intent AS intent ON intent.token = shared.token
    AND intent.verb = 'start' AND intent.lease_until BETWEEN ? AND ?
    WHERE shared.namespace = ? AND shared.scope = ? AND shared.sharing_key = ?
    AND ((shared.kernel_id IS NULL AND intent.token IS NOT NULL)
    OR (shared.kernel_id IS NOT NULL AND shared.until BETWEEN ? AND ?))"""
PUT_SHARED = """INSERT INTO nbsessions_shared (namespace, scope, sharing_key, token, until)
    VALUES (?, ?, ?, ?, ?) ON CONFLICT (namespace, scope, sharing_key)
    DO UPDATE SET token = excluded.token, until = excluded.until, kernel_id = NULL"""
COMPLETE_SHARED = """UPDATE nbsessions_shared SET kernel_id = ?, until = ?
    WHERE namespace = ? AND scope = ? AND sharing_key = ? AND token = ?"""
DELETE_SHARED_BEFORE = "DELETE FROM nbsessions_shared WHERE until < ?"

# Endings

ENDING_COLUMNS = "session_id, reason, ended"
# One statement, because a session may end between two of them.
SELECT_WHEREABOUTS = """SELECT session_id, scope, NULL AS reason, NULL AS ended
    FROM nbsessions_session WHERE namespace = ? AND session_id = ?
    UNION ALL SELECT session_id, NULL, reason, ended
    FROM nbsessions_ending WHERE namespace = ? AND session_id = ? AND ended >= ?"""
INSERT_ENDING = """INSERT OR REPLACE INTO nbsessions_ending
    (namespace, session_id, reason, ended) VALUES (?, ?, ?, ?)"""
DELETE_ENDING = "DELETE FROM nbsessions_ending WHERE namespace = ? AND session_id = ?"
# Limited, so that no write takes long. The next ones remove the rest.
DELETE_ENDINGS_BEFORE = """DELETE FROM nbsessions_ending WHERE rowid IN
    (SELECT rowid FROM nbsessions_ending WHERE ended < ? ORDER BY ended LIMIT 1000)"""

# Owners

_HAS_LEFT_NOTHING = """NOT EXISTS (SELECT 1 FROM nbsessions_session AS session
    WHERE session.namespace = nbsessions_owner.namespace
    AND session.scope = nbsessions_owner.owner)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.namespace = nbsessions_owner.namespace
    AND intent.owner = nbsessions_owner.owner)
    AND (scope IN (owner, '') OR EXISTS (SELECT 1 FROM nbsessions_owner AS later
    WHERE later.namespace = nbsessions_owner.namespace AND later.scope = nbsessions_owner.scope
    AND (COALESCE(later.stopped, later.heartbeat), later.owner)
    > (COALESCE(nbsessions_owner.stopped, nbsessions_owner.heartbeat), nbsessions_owner.owner))
    OR NOT EXISTS (SELECT 1 FROM nbsessions_session AS shared
    WHERE shared.namespace = nbsessions_owner.namespace AND shared.scope = nbsessions_owner.scope)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS open
    WHERE open.namespace = nbsessions_owner.namespace AND open.scope = nbsessions_owner.scope
    AND open.verb <> 'ended'))"""
"""Of a shared scope that has something left, the last owner stays: it tells since when."""

_OWNER_COLUMNS = "owner, host, boot, heartbeat, stopped, provider"
SELECT_OTHER_OWNERS = f"""SELECT {_OWNER_COLUMNS} FROM nbsessions_owner
    WHERE namespace = ? AND owner <> ? AND scope IN (owner, '', ?)"""
# An owner without a scope is one of an older release, which may share this one.
_SHARER = f"""SELECT {_OWNER_COLUMNS}, scope = :scope AS serves,
    COALESCE(stopped, heartbeat) AS seen, namespace
    FROM nbsessions_owner WHERE owner <> :owner
    AND (scope IN (:scope, '') OR EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.owner = nbsessions_owner.owner AND intent.scope = :scope
    AND intent.verb <> 'ended'))"""
SELECT_SHARERS = f"{_SHARER} AND namespace = :namespace"
SELECT_SHARERS_ELSEWHERE = f"{_SHARER} AND namespace <> :namespace"
SELECT_SHARED_KERNELS_ELSEWHERE = """SELECT namespace, kernel_id FROM nbsessions_session
    WHERE scope = :scope AND namespace <> :namespace
    UNION SELECT namespace, kernel_id FROM nbsessions_intent
    WHERE scope = :scope AND namespace <> :namespace AND verb <> 'ended'
    AND kernel_id IS NOT NULL"""
SELECT_BARE_OWNERS = f"""SELECT {_OWNER_COLUMNS} FROM nbsessions_owner
    WHERE namespace <> ? AND {_HAS_LEFT_NOTHING}"""
SELECT_ALL_OWNERS = f"SELECT {_OWNER_COLUMNS} FROM nbsessions_owner"
REGISTER_OWNER = """INSERT INTO nbsessions_owner
    (owner, namespace, scope, host, boot, pid, heartbeat, provider)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE
    SET scope = excluded.scope, heartbeat = excluded.heartbeat, stopped = NULL"""
INSERT_STOPPED_OWNER = """INSERT INTO nbsessions_owner
    (owner, namespace, host, boot, pid, heartbeat, stopped) VALUES (?, ?, '', '', 0, ?, ?)"""
STOP_OWNER = "UPDATE nbsessions_owner SET stopped = ? WHERE owner = ?"
SIGN_WRITE = "UPDATE nbsessions_owner SET written = ? WHERE owner = ? AND written >= ?"
DELETE_BARE_OWNER = f"DELETE FROM nbsessions_owner WHERE owner = ? AND {_HAS_LEFT_NOTHING}"

# Namespaces and the file

SELECT_VERSION = """SELECT
    COALESCE((SELECT revision FROM nbsessions_namespace WHERE namespace = ?), 0) AS revision,
    (SELECT written FROM nbsessions_owner WHERE owner = ?) AS written"""
SELECT_REVISION = "SELECT revision FROM nbsessions_namespace WHERE namespace = ?"
RAISE_REVISION = "UPDATE nbsessions_namespace SET revision = revision + 1 WHERE namespace = ?"
RAISE_REVISION_OVER = """UPDATE nbsessions_namespace SET revision = MAX(revision, ? + 1)
    WHERE namespace = ?"""
INSERT_NAMESPACE = "INSERT INTO nbsessions_namespace (namespace, revision) VALUES (?, 1)"
DELETE_EMPTY_NAMESPACES = """DELETE FROM nbsessions_namespace WHERE namespace <> ?
    AND namespace NOT IN (SELECT namespace FROM nbsessions_owner)
    AND namespace NOT IN (SELECT namespace FROM nbsessions_session)
    AND namespace NOT IN (SELECT namespace FROM nbsessions_intent)"""
NOTE_STOCK_IMPORT = (
    "INSERT OR IGNORE INTO nbsessions_meta (key, value) VALUES ('stock_imported', 1)"
)
