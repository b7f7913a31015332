-- Lifts, and what a look at what was lifted costs with a long ledger.
CREATE INDEX revocations_lifted_agent ON revocations (agent_did) WHERE kind = 'agent' AND lifted_by IS NOT NULL;

CREATE INDEX revocations_lifted_token ON revocations (jti) WHERE kind = 'token' AND lifted_by IS NOT NULL;

CREATE INDEX revocations_tokens_of_agent ON revocations (agent_did) WHERE kind = 'token' AND lifted_by IS NULL;

-- A row is lifted once.
CREATE UNIQUE INDEX revocations_lifts ON revocations (lifts) WHERE kind = 'lift';

-- Where the reconciliation with the registry's CRL stands: one row. cursor is the last token gone through of a run that
-- is not finished; pending are the tokens, a JSON array, that it was recording just then; etag is the list's that was
-- gone through whole, while nothing is unfinished.
CREATE TABLE reconciliation (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  cursor TEXT,
  pending TEXT,
  etag TEXT,
  started_at_ms INTEGER NOT NULL,
  finished_at_ms INTEGER,
  listed INTEGER NOT NULL,
  added INTEGER NOT NULL
);
