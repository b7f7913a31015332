-- Pairs that have ended, each as long as the object of agent_did is not known to have been told: the object that ended it
-- tells it too, but may lose its storage before it does.
CREATE TABLE IF NOT EXISTS ended_pairs (
  agent_did TEXT NOT NULL,
  peer_did TEXT NOT NULL,
  pair_id TEXT NOT NULL,
  untold_since_ms INTEGER NOT NULL,
  PRIMARY KEY (agent_did, peer_did, pair_id)
) WITHOUT ROWID;
