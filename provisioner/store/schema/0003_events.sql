-- Domain events: written with the step they tell of, delivered by the outbox afterwards.

-- `seq` is commit order: one writer hands it out inside its transaction. The newest row is never pruned, so no number is
-- used twice. `facts` is JSON: what may change after the step (see events.py); `nonce` makes the id unique (rule 5).
CREATE TABLE event (
    seq                   INTEGER PRIMARY KEY,
    nonce                 INTEGER NOT NULL DEFAULT (random()),
    type                  TEXT NOT NULL,
    request_id            INTEGER NOT NULL,
    account_id            INTEGER NOT NULL,
    made_on               INTEGER NOT NULL,
    originator_id         INTEGER,
    originator_account_id INTEGER,
    facts                 TEXT NOT NULL
);
CREATE INDEX event_by_request ON event (request_id, seq);

-- What a sink took out of `event` so far: everything up to `taken`. What of that it has not delivered is in `delivery`.
CREATE TABLE sink (
    name  TEXT PRIMARY KEY,
    taken INTEGER NOT NULL
) WITHOUT ROWID;

-- An event a sink has still to deliver. `due_on`: when (in the future too while it is leased); NULL: not now, because an
-- earlier event of the same request comes first, or because it is dead (`dead_on`).
CREATE TABLE delivery (
    seq        INTEGER NOT NULL REFERENCES event (seq) ON DELETE CASCADE,
    sink       TEXT NOT NULL,
    request_id INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    due_on     INTEGER,
    dead_on    INTEGER,
    problem    TEXT,
    PRIMARY KEY (seq, sink)
) WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (sink, due_on, seq) WHERE due_on IS NOT NULL;
CREATE INDEX delivery_by_request ON delivery (request_id, sink, seq);
CREATE INDEX delivery_dead ON delivery (dead_on, seq) WHERE dead_on IS NOT NULL;
