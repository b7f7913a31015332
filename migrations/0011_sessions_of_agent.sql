-- An agent's object that has lost its storage looks for the end of its session.
CREATE INDEX IF NOT EXISTS revocations_sessions_of_agent ON revocations (agent_did) WHERE kind = 'session';
