-- Messages of the dead-letter queues, kept for a person: what could not be applied, and why as far as it is known.
-- A message is one row however often the queue delivers it. The proxy bounds the number of rows.
CREATE TABLE IF NOT EXISTS dead_letters (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  message_id TEXT NOT NULL UNIQUE,
  queue TEXT NOT NULL,
  type TEXT,
  subject TEXT,
  revocation INTEGER NOT NULL,
  reason TEXT NOT NULL,
  body TEXT NOT NULL,
  dead_lettered_at_ms INTEGER NOT NULL,
  retried_at_ms INTEGER
);
