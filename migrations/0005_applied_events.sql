-- Every event that was applied is remembered for 90 days by what it did: a duplicate changes nothing, whatever has been
-- lifted or has expired since. event_id is the event's own id, or "body:" and the hash of a body without one; subject is
-- the agent's DID, or the token's jti.
CREATE TABLE applied_events (
  event_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  applied_at_ms INTEGER NOT NULL,
  PRIMARY KEY (event_id, kind, subject)
) WITHOUT ROWID;

CREATE INDEX applied_events_age ON applied_events (applied_at_ms);

INSERT INTO applied_events (event_id, kind, subject, applied_at_ms)
SELECT event_id, kind, COALESCE(jti, agent_did, ''), recorded_at_ms FROM revocations WHERE event_id IS NOT NULL
ON CONFLICT DO NOTHING;

-- One event may name several agents: each is a row.
DROP INDEX revocations_event;

CREATE UNIQUE INDEX revocations_event ON revocations (event_id, kind, COALESCE(jti, agent_did, ''))
  WHERE event_id IS NOT NULL;

-- The end of a session matters for as long as an access token lives, 15 minutes.
UPDATE revocations SET expires_at_ms = recorded_at_ms + 900000 WHERE kind = 'session' AND expires_at_ms IS NULL;
