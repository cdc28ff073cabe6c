-- Keys with which encoders publish. A key is shown once, when it is made; what is kept is its SHA-256, by which it is
-- found again. A key has 122 random bits, so the hash needs no salt and no work factor.
CREATE TABLE stream_keys (
    id           uuid        PRIMARY KEY,
    session_id   uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    key_sha256   bytea       NOT NULL UNIQUE CHECK (octet_length(key_sha256) = 32),
    -- The name that its captions show.
    label        text,
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX stream_keys_by_session ON stream_keys (session_id, created_at);
