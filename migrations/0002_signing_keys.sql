-- The registry's last good signing keys (docs/design.md §4): one row, from which a fresh isolate starts in an outage.
-- document is the key set as claw-keys.json; fetched_at_ms is when the registry was asked for it, Unix milliseconds.
CREATE TABLE signing_keys (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  document TEXT NOT NULL,
  fetched_at_ms INTEGER NOT NULL
);
