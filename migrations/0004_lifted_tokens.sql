-- A lift that is tried again looks for the tokens that its first try lifted.
CREATE INDEX revocations_lifted_tokens_of_agent ON revocations (agent_did)
  WHERE kind = 'token' AND lifted_by IS NOT NULL;
