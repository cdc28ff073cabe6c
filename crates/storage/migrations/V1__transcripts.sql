-- A topic's sequence is a row that every writer locks until it commits, so that commit order is sequence order.
-- A Postgres SEQUENCE would hand out numbers that commit out of order, or never.
CREATE TABLE topics (
    name     text   PRIMARY KEY,
    sequence bigint NOT NULL CHECK (sequence > 0)
);

CREATE TABLE sessions (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    slug             text        NOT NULL UNIQUE,
    -- The id under which the surrounding application starts and stops the session.
    external_id      text,
    status           text        NOT NULL CHECK (status IN ('created', 'live', 'ended')),
    created_at       timestamptz NOT NULL,
    started_at       timestamptz,
    last_activity_at timestamptz NOT NULL,
    ended_at         timestamptz
);
CREATE INDEX sessions_by_external_id ON sessions (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX sessions_open_by_activity ON sessions (last_activity_at) WHERE status <> 'ended';

CREATE TABLE participants (
    session_id   uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    identity     text        NOT NULL,
    name         text,
    user_id      text,
    joined_at    timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (session_id, identity)
);

CREATE TABLE streams (
    id               uuid        PRIMARY KEY,
    session_id       uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    speaker_identity text        NOT NULL,
    speaker_name     text,
    -- Rises each time a worker takes the stream over; an older epoch cannot write.
    epoch            bigint      NOT NULL,
    -- Samples of 16 kHz. Audio before stored_end is covered by a stored final.
    stored_end       bigint      NOT NULL DEFAULT 0,
    heard_end        bigint      NOT NULL DEFAULT 0,
    next_utterance   bigint      NOT NULL DEFAULT 1,
    -- Wall time of sample 0.
    started_at       timestamptz NOT NULL,
    last_activity_at timestamptz NOT NULL,
    closed_at        timestamptz
);
CREATE INDEX streams_by_session ON streams (session_id, last_activity_at);

CREATE TABLE segments (
    session_id       uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    sequence         bigint      NOT NULL,
    stream_id        uuid        NOT NULL REFERENCES streams ON DELETE CASCADE,
    -- Number of the utterance in its stream; with stream_id it is the utterance id.
    utterance        bigint      NOT NULL,
    revision         integer     NOT NULL,
    speaker_identity text        NOT NULL,
    speaker_name     text,
    text             text        NOT NULL,
    language         text,
    -- Samples of 16 kHz from the start of the stream.
    start_sample     bigint      NOT NULL,
    end_sample       bigint      NOT NULL,
    -- [{"text", "start", "end"}], start and end in samples.
    words            jsonb       NOT NULL,
    started_at       timestamptz NOT NULL,
    ended_at         timestamptz NOT NULL,
    stored_at        timestamptz NOT NULL,
    PRIMARY KEY (session_id, sequence),
    UNIQUE (stream_id, utterance, revision)
);
CREATE INDEX segments_by_time ON segments (session_id, started_at, sequence);

-- Announcements of committed rows that Redis has not been told yet. A row is deleted once it is published.
CREATE TABLE outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text        NOT NULL,
    sequence   bigint      NOT NULL,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL
);
