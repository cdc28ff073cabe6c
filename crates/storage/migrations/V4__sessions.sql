-- A caption that a back end handed in was heard in no stream; it has the back end's own id instead.
ALTER TABLE segments ALTER COLUMN stream_id DROP NOT NULL;
ALTER TABLE segments ALTER COLUMN utterance DROP NOT NULL;
ALTER TABLE segments ADD COLUMN outside_id text;
-- {"user", "said_at", "message"}: what the back end gave beside the text. Not jsonb: the message is sent on as it was written.
ALTER TABLE segments ADD COLUMN outside json;
ALTER TABLE segments ADD CONSTRAINT segments_heard_or_outside
    CHECK ((stream_id IS NULL) = (utterance IS NULL) AND (stream_id IS NULL) <> (outside_id IS NULL));
-- As clients know it; the same for every revision.
ALTER TABLE segments ADD COLUMN utterance_id text
    GENERATED ALWAYS AS (COALESCE(outside_id, stream_id::text || '-' || utterance::text)) STORED;
CREATE UNIQUE INDEX segments_by_utterance ON segments (session_id, utterance_id, revision);
-- A word is found by its stem in either language, whatever the language of the segment is.
ALTER TABLE segments ADD COLUMN search tsvector
    GENERATED ALWAYS AS (to_tsvector('english', text) || to_tsvector('russian', text)) STORED;
CREATE INDEX segments_by_words ON segments USING gin (search);

-- Whose active streams are limited; NULL for those that nobody limits.
ALTER TABLE streams ADD COLUMN user_id text;
CREATE INDEX streams_open_by_user ON streams (user_id) WHERE closed_at IS NULL AND user_id IS NOT NULL;
CREATE INDEX streams_by_user ON streams (user_id) WHERE user_id IS NOT NULL;
-- Sound before heard_end is metered: no sound is metered twice.

-- What was really processed. Kept when its session is deleted, without anybody's name.
CREATE TABLE usage (
    stream_id  uuid        NOT NULL,
    engine     text        NOT NULL,
    session_id uuid        REFERENCES sessions ON DELETE SET NULL,
    identity   text,
    user_id    text,
    -- Of 16 kHz.
    samples    bigint      NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    PRIMARY KEY (stream_id, engine)
);
CREATE INDEX usage_by_session ON usage (session_id, started_at);
CREATE INDEX usage_by_user ON usage (user_id) WHERE user_id IS NOT NULL;

-- What browsers of the older system say of their own use: kept beside, never billed.
CREATE TABLE usage_reports (
    id                  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id          uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    identity            text        NOT NULL,
    user_id             text,
    started_at          timestamptz NOT NULL,
    ended_at            timestamptz NOT NULL,
    duration_seconds    double precision NOT NULL,
    audio_chunks_sent   bigint      NOT NULL,
    transcripts         bigint      NOT NULL,
    final_transcripts   bigint      NOT NULL,
    partial_transcripts bigint      NOT NULL,
    errors              bigint      NOT NULL,
    reported_at         timestamptz NOT NULL
);
CREATE INDEX usage_reports_by_session ON usage_reports (session_id, started_at);
CREATE INDEX usage_reports_by_user ON usage_reports (user_id) WHERE user_id IS NOT NULL;

-- Who was said to speak, from that moment on; nobody, where the identity is NULL. Gone with the end of the session.
CREATE TABLE active_speakers (
    session_id uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    at         timestamptz NOT NULL,
    identity   text,
    name       text,
    -- Which of those of one moment came last.
    id         bigint      GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX active_speakers_by_time ON active_speakers (session_id, at, id);

-- Rooms of LiveKit whose sound is wanted, or is still to be let go of.
CREATE TABLE rooms (
    session_id uuid        PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    -- False once the session was stopped: its egresses are to end.
    wanted     boolean     NOT NULL,
    -- `tracks` or `composite`.
    mode       text        NOT NULL CHECK (mode IN ('tracks', 'composite')),
    -- When the room is to be looked at again.
    due_at     timestamptz NOT NULL,
    -- Until then somebody looks at it, and nobody else does.
    held_until timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX rooms_by_due ON rooms (due_at);

-- Attempts to have a track, or with an empty name the whole room, sent to us. What runs, LiveKit knows.
CREATE TABLE egress_attempts (
    session_id uuid        NOT NULL REFERENCES rooms ON DELETE CASCADE,
    track_id   text        NOT NULL,
    attempts   integer     NOT NULL,
    tried_at   timestamptz NOT NULL,
    PRIMARY KEY (session_id, track_id)
);

-- Webhooks that were heard, to hear each once.
CREATE TABLE livekit_events (
    id       text        PRIMARY KEY,
    heard_at timestamptz NOT NULL
);
CREATE INDEX livekit_events_by_age ON livekit_events (heard_at);
