-- The kill switch's measurements of itself (docs/operations.md): one row for each run and way, kept for a day. Times after
-- started_at_ms, milliseconds; null where it was not seen. finished_at_ms is null while a run goes on.
CREATE TABLE IF NOT EXISTS canary_runs (
  way TEXT NOT NULL,
  started_at_ms INTEGER NOT NULL,
  finished_at_ms INTEGER,
  overlay_ms INTEGER,
  socket_ms INTEGER,
  feed_ms INTEGER,
  PRIMARY KEY (way, started_at_ms)
) WITHOUT ROWID;
