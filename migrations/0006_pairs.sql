-- Every pair has a random id, the same in both of its rows; rows from before have none. untold_since_ms is set as long as
-- the object of agent_did is not known to have been told of the row.
ALTER TABLE pairs ADD COLUMN pair_id TEXT;

ALTER TABLE pairs ADD COLUMN untold_since_ms INTEGER;

CREATE INDEX pairs_untold ON pairs (untold_since_ms) WHERE untold_since_ms IS NOT NULL;

-- The text of a ticket that was taken over confirmed: its key is not known any more.
ALTER TABLE pair_tickets ADD COLUMN ticket TEXT;

-- How far the import of what an earlier proxy kept has come: one row. position counts within the stage.
CREATE TABLE takeover (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  stage INTEGER NOT NULL,
  position INTEGER NOT NULL,
  pairs INTEGER NOT NULL,
  tickets INTEGER NOT NULL,
  revocations INTEGER NOT NULL,
  skipped INTEGER NOT NULL,
  started_at_ms INTEGER NOT NULL,
  finished_at_ms INTEGER
);
