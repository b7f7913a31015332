-- What the proxy keeps in D1 (docs/design.md §3). Times are Unix milliseconds; DIDs and ULIDs are text as on the wire.

-- Who may talk to whom: one row for each direction. An agent with a row is a known agent.
CREATE TABLE pairs (
  agent_did TEXT NOT NULL,
  peer_did TEXT NOT NULL,
  paired_at_ms INTEGER NOT NULL,
  PRIMARY KEY (agent_did, peer_did)
) WITHOUT ROWID;

-- Pairing tickets. The key pair was made for this one ticket, so its signature vouches for every field of it.
-- confirmation_id is the random mark of the one confirmation that won.
CREATE TABLE pair_tickets (
  kid TEXT NOT NULL PRIMARY KEY,
  issuer TEXT NOT NULL,
  public_key_x TEXT NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  initiator_did TEXT NOT NULL,
  initiator_profile TEXT NOT NULL,
  allow_responder_did TEXT,
  responder_did TEXT,
  responder_profile TEXT,
  confirmation_id TEXT,
  confirmed_at_ms INTEGER
) WITHOUT ROWID;

CREATE INDEX pair_tickets_expiry ON pair_tickets (expires_at_ms);

-- The ledger: one numbered row for every revocation and every lift. A row is active while lifted_by is null.
CREATE TABLE revocations (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('agent', 'token', 'session', 'lift')),
  agent_did TEXT,
  jti TEXT,
  lifts INTEGER,
  reason TEXT,
  source TEXT NOT NULL CHECK (source IN ('queue', 'crl', 'operator')),
  event_id TEXT,
  revoked_at_ms INTEGER NOT NULL,
  recorded_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER,
  lifted_by INTEGER
);

-- One active row per agent and per token; one row per thing that an event revokes, however often it comes.
CREATE UNIQUE INDEX revocations_active_agent ON revocations (agent_did) WHERE kind = 'agent' AND lifted_by IS NULL;

CREATE UNIQUE INDEX revocations_active_token ON revocations (jti) WHERE kind = 'token' AND lifted_by IS NULL;

CREATE UNIQUE INDEX revocations_event ON revocations (event_id, kind, COALESCE(jti, '')) WHERE event_id IS NOT NULL;

CREATE INDEX revocations_expiry ON revocations (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

-- Which agent a token belongs to, written when it is first admitted: an event that names only a token finds its object.
CREATE TABLE agent_tokens (
  jti TEXT NOT NULL PRIMARY KEY,
  agent_did TEXT NOT NULL,
  expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX agent_tokens_expiry ON agent_tokens (expires_at_ms);
