-- The audit trail (see `journal`): append-only, and the database itself holds to that.
CREATE TABLE journal (
    seq        INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    action     TEXT NOT NULL,
    actor      INTEGER,
    source     TEXT NOT NULL,
    request_id INTEGER,
    client_id  TEXT NOT NULL,
    generation INTEGER,
    before     TEXT,
    phase      TEXT,
    cause      TEXT NOT NULL,
    digest     BLOB NOT NULL
);
CREATE INDEX journal_by_request ON journal (request_id, seq) WHERE request_id IS NOT NULL;

CREATE TRIGGER journal_is_not_changed BEFORE UPDATE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;

CREATE TRIGGER journal_is_not_cut BEFORE DELETE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;
