//! The SQL that writes the ledger and reads what stands in it. The Worker runs it on D1, and the tests beside it on SQLite.
//!
//! What is recorded comes as one JSON array (`?1`), an element for each thing that an order revokes:
//! `{"event":id|null,"kind":"agent"|"token"|"session","subject":did|jti,"agent":did|null,"jti":jti|null,"reason":text|null,
//! "source":text,"at":ms,"expires":ms|null}`. `?2` is now, Unix milliseconds. Every statement looks at the *fresh* elements
//! alone, those whose event has not done this to this subject before; `REMEMBER` comes last and makes them known.

/// The fresh elements; `life` is until when the token can live, as far as anybody knows.
macro_rules! fresh {
    ($rest:literal) => {
        concat!(
            "WITH fresh AS (
  SELECT key AS n, value ->> '$.event' AS event_id, value ->> '$.kind' AS kind, value ->> '$.agent' AS agent_did,
    value ->> '$.jti' AS jti, value ->> '$.reason' AS reason, value ->> '$.source' AS source, value ->> '$.at' AS at_ms,
    (SELECT agent_did FROM agent_tokens WHERE agent_tokens.jti = value ->> '$.jti') AS owner,
    MAX(COALESCE(value ->> '$.expires', 0), COALESCE(
      (SELECT expires_at_ms FROM agent_tokens WHERE agent_tokens.jti = value ->> '$.jti'), ?2 + 7776000000)) AS life
  FROM json_each(?1)
  WHERE value ->> '$.event' IS NULL OR NOT EXISTS (
    SELECT 1 FROM applied_events AS applied WHERE applied.event_id = value ->> '$.event'
      AND applied.kind = value ->> '$.kind' AND applied.subject = value ->> '$.subject'))
",
            $rest
        )
    };
}

/// Tokens that stand with an earlier expiry than they can live. Each gets a number of its own above all others, so that
/// readers of the feed, who may drop a token when it expires, read it again. A row that is already kept for the longest
/// life of a token, 90 days less a minute for what passes between the reckoning and the record, stays.
pub const EXTEND_TOKENS: &str = fresh!(
    ", later AS (SELECT jti, MAX(life) AS life, MIN(n) AS n FROM fresh WHERE kind = 'token' GROUP BY jti)
UPDATE revocations SET expires_at_ms = later.life, recorded_at_ms = ?2,
  seq = (SELECT MAX(seq) FROM revocations) + 1 + later.n
FROM later
WHERE revocations.kind = 'token' AND revocations.lifted_by IS NULL AND revocations.jti = later.jti
  AND revocations.expires_at_ms < later.life
  AND revocations.expires_at_ms < revocations.recorded_at_ms + 7776000000 - 60000"
);

/// What an operator and the registry revoked is the registry's, whoever came first: its lift needs `force`, and holds
/// against that event.
pub const ADOPT_TOKENS: &str = fresh!(
    ", told AS (SELECT jti, source, event_id FROM fresh WHERE kind = 'token' AND source <> 'operator' GROUP BY jti)
UPDATE revocations SET source = told.source, event_id = told.event_id FROM told
WHERE revocations.kind = 'token' AND revocations.lifted_by IS NULL AND revocations.source = 'operator'
  AND revocations.jti = told.jti"
);

/// The agent of a token's row is the token's owner by the record, else the agent that was named first. A reissue is the
/// weakest of reasons: any other takes its place.
pub const RECORD_TOKENS: &str = fresh!(
    "INSERT INTO revocations
  (kind, agent_did, jti, reason, source, event_id, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'token', COALESCE(owner, agent_did), jti, reason, source, event_id, at_ms, ?2, life FROM fresh
WHERE kind = 'token' ORDER BY n
ON CONFLICT (jti) WHERE kind = 'token' AND lifted_by IS NULL DO UPDATE SET
  agent_did = COALESCE((SELECT agent_did FROM agent_tokens WHERE agent_tokens.jti = excluded.jti),
    revocations.agent_did, excluded.agent_did),
  reason = CASE revocations.reason WHEN 'reissued' THEN excluded.reason ELSE revocations.reason END
ON CONFLICT DO NOTHING"
);

/// See `ADOPT_TOKENS` for what becomes of an operator's row.
pub const RECORD_AGENTS: &str = fresh!(
    "INSERT INTO revocations (kind, agent_did, reason, source, event_id, revoked_at_ms, recorded_at_ms)
SELECT 'agent', agent_did, reason, source, event_id, at_ms, ?2 FROM fresh WHERE kind = 'agent' ORDER BY n
ON CONFLICT (agent_did) WHERE kind = 'agent' AND lifted_by IS NULL DO UPDATE SET
  source = excluded.source, event_id = excluded.event_id
  WHERE revocations.source = 'operator' AND excluded.source <> 'operator'
ON CONFLICT DO NOTHING"
);

/// The end of a session matters for as long as an access token lives, 15 minutes.
pub const RECORD_SESSIONS: &str = fresh!(
    "INSERT INTO revocations
  (kind, agent_did, reason, source, event_id, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'session', agent_did, reason, source, event_id, at_ms, ?2, ?2 + 900000 FROM fresh
WHERE kind = 'session' ORDER BY n
ON CONFLICT DO NOTHING"
);

/// What these events did is done, for good.
pub const REMEMBER: &str = "
INSERT INTO applied_events (event_id, kind, subject, applied_at_ms)
SELECT value ->> '$.event', value ->> '$.kind', value ->> '$.subject', ?2 FROM json_each(?1)
WHERE value ->> '$.event' IS NOT NULL
ON CONFLICT DO NOTHING";

/// Of what was named, what was ever lifted: there the overlay may say something else than the ledger.
pub const EVER_LIFTED: &str = "
SELECT DISTINCT value ->> '$.kind' AS kind, value ->> '$.subject' AS subject FROM json_each(?1)
WHERE (value ->> '$.kind' = 'agent' AND EXISTS (SELECT 1 FROM revocations
    WHERE kind = 'agent' AND agent_did = value ->> '$.subject' AND lifted_by IS NOT NULL))
  OR (value ->> '$.kind' = 'token' AND EXISTS (SELECT 1 FROM revocations
    WHERE kind = 'token' AND jti = value ->> '$.subject' AND lifted_by IS NOT NULL))";

/// When the owners of the agents whose sessions were named last ended these: the time of the first record, however often
/// the event comes.
pub const SESSIONS_ENDED: &str = "
SELECT agent_did, MAX(recorded_at_ms) AS at_ms FROM revocations
WHERE kind = 'session' AND reason = 'owner_auth_revoke'
  AND agent_did IN (SELECT value ->> '$.subject' FROM json_each(?1) WHERE value ->> '$.kind' = 'session')
GROUP BY agent_did";

/// Whose the tokens are that were named, of those that were ever shown here.
pub const OWNERS: &str = "
SELECT jti, agent_did FROM agent_tokens WHERE jti IN (SELECT value ->> '$.jti' FROM json_each(?1))";

/// At a token's first sight (`?1` its jti, `?2` its agent, `?3` when it ends): a row that was recorded under another
/// agent, or under none, is its owner's from now on.
pub const CORRECT_OWNER: &str = "
UPDATE revocations SET agent_did = ?2
WHERE kind = 'token' AND lifted_by IS NULL AND jti = ?1 AND agent_did IS NOT ?2";

/// Likewise: a row that would end before the token does is kept until then, under a new number (`?4` is now).
pub const CORRECT_EXPIRY: &str = "
UPDATE revocations SET expires_at_ms = ?3, recorded_at_ms = ?4, seq = (SELECT MAX(seq) FROM revocations) + 1
WHERE kind = 'token' AND lifted_by IS NULL AND jti = ?1 AND agent_did = ?2 AND expires_at_ms < ?3";

/// What `record` runs, in this order.
pub const RECORD: [&str; 6] = [
    RECORD_AGENTS,
    RECORD_SESSIONS,
    EXTEND_TOKENS,
    ADOPT_TOKENS,
    RECORD_TOKENS,
    REMEMBER,
];

/// What stands against an agent (`?1`) and a token (`?2`), whether the token was ever lifted, and when the agent's owner
/// ended its session.
pub const ACTIVE: &str = "
SELECT kind, reason, expires_at_ms FROM revocations WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL
UNION ALL
SELECT kind, reason, expires_at_ms FROM revocations WHERE kind = 'token' AND jti = ?2 AND lifted_by IS NULL
UNION ALL
SELECT 'lifted', reason, expires_at_ms FROM revocations WHERE kind = 'token' AND jti = ?2 AND lifted_by IS NOT NULL
UNION ALL
SELECT 'session', reason, recorded_at_ms FROM revocations
  WHERE kind = 'session' AND agent_did = ?1 AND reason = 'owner_auth_revoke'";

/// At a token's first sight (`?1` its jti, `?2` its agent, `?3` when it ends): whose it is.
pub const REMEMBER_TOKEN: &str =
    "INSERT INTO agent_tokens (jti, agent_did, expires_at_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

/// Whether an agent (`?1`) and tokens (`?2`, a JSON array) are revoked, or were and are no longer. Each part names its
/// rows in the way that its index does.
pub const STANDING: &str = "
SELECT jti, expires_at_ms, 1 AS stands FROM revocations
  WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL
UNION ALL
SELECT jti, expires_at_ms, 0 FROM revocations WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NOT NULL
UNION ALL
SELECT jti, expires_at_ms, 1 FROM revocations
  WHERE kind = 'token' AND jti IN (SELECT value FROM json_each(?2)) AND lifted_by IS NULL
UNION ALL
SELECT jti, expires_at_ms, 0 FROM revocations
  WHERE kind = 'token' AND jti IN (SELECT value FROM json_each(?2)) AND lifted_by IS NOT NULL";

/// Lifts the row of number `?1`, for the reason `?2`, now (`?3`).
pub const LIFT: &str = "
INSERT INTO revocations
  (kind, agent_did, jti, lifts, reason, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'lift', agent_did, jti, seq, ?2, 'operator', ?3, ?3, expires_at_ms
FROM revocations WHERE seq = ?1 AND lifted_by IS NULL AND kind <> 'lift'
ON CONFLICT DO NOTHING";

/// Marks that row (`?1`) as lifted.
pub const MARK_LIFTED: &str = "
UPDATE revocations SET lifted_by = (SELECT seq FROM revocations WHERE kind = 'lift' AND lifts = ?1)
WHERE seq = ?1 AND lifted_by IS NULL
  AND EXISTS (SELECT 1 FROM revocations WHERE kind = 'lift' AND lifts = ?1)";
