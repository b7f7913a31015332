-- The epoch of the feed's numbers (docs/design.md §3): one row, replaced by `proxyctl feed new-epoch` after the database
-- was restored to an earlier point, so that readers of the feed start over.
CREATE TABLE IF NOT EXISTS feed_epoch (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  epoch TEXT NOT NULL,
  begun_at_ms INTEGER NOT NULL
);

INSERT OR IGNORE INTO feed_epoch (id, epoch, begun_at_ms)
VALUES (1, lower(hex(randomblob(8))), CAST(strftime('%s', 'now') AS INTEGER) * 1000);
