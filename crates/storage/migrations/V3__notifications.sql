-- Notifications lock their topic before they know whether there will be anything to tell.
ALTER TABLE topics DROP CONSTRAINT topics_sequence_check;
ALTER TABLE topics ADD CONSTRAINT topics_sequence_check CHECK (sequence >= 0);
-- A reader whose position lies below the floor has missed events that are kept no longer.
ALTER TABLE topics ADD COLUMN floor bigint NOT NULL DEFAULT 0;

-- What is true of all notifications of a user at once. Its writers hold the lock of the topic user:ID.
CREATE TABLE inboxes (
    user_id         text   PRIMARY KEY,
    unread          bigint NOT NULL DEFAULT 0 CHECK (unread >= 0),
    -- Neither archived nor cleared.
    listed          bigint NOT NULL DEFAULT 0 CHECK (listed >= unread),
    -- Marks up to here are overruled: all was marked as read at this sequence.
    read_through    bigint NOT NULL DEFAULT 0,
    -- All that was read at the sequence cleared_at is gone, unless it was archived; cleared_through is what
    -- read_through was then. The rows are deleted later.
    cleared_at      bigint NOT NULL DEFAULT 0,
    cleared_through bigint NOT NULL DEFAULT 0,
    muted_types     text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);
CREATE INDEX inboxes_to_purge ON inboxes (user_id) WHERE cleared_at > 0;

CREATE TABLE notifications (
    id           uuid        PRIMARY KEY,
    user_id      text        NOT NULL,
    sequence     bigint      NOT NULL,
    type         text        NOT NULL,
    title        text        NOT NULL,
    message      text        NOT NULL,
    -- Not jsonb, which writes 1e300 as 301 digits.
    metadata     json,
    -- 0 low, 1 normal, 2 high, 3 urgent.
    priority     smallint    NOT NULL,
    -- As it was marked at the sequence `marked`; a later inboxes.read_through overrules it.
    is_read      boolean     NOT NULL DEFAULT false,
    marked       bigint      NOT NULL,
    -- Archived ones are read.
    archived     boolean     NOT NULL DEFAULT false CHECK (is_read OR NOT archived),
    collapse_key text,
    replaces     uuid[]      NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    UNIQUE (user_id, sequence)
);
CREATE INDEX notifications_listed ON notifications (user_id, sequence) WHERE NOT archived;
CREATE INDEX notifications_by_type ON notifications (user_id, type, sequence) WHERE NOT archived;
CREATE INDEX notifications_archived ON notifications (user_id, sequence) WHERE archived;
CREATE INDEX notifications_unread ON notifications (user_id, sequence) WHERE NOT is_read;
CREATE INDEX notifications_unread_by_type ON notifications (user_id, type, sequence) WHERE NOT is_read;
-- Those marked as unread again: the only ones that can be unread below the watermark.
CREATE INDEX notifications_reopened ON notifications (user_id, marked) WHERE NOT is_read AND marked > sequence;
CREATE INDEX notifications_collapsing ON notifications (user_id, collapse_key)
    WHERE collapse_key IS NOT NULL AND NOT is_read;
CREATE INDEX notifications_expiring ON notifications (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX notifications_by_age ON notifications (created_at);

-- What was published with a delivery time that lies ahead.
CREATE TABLE scheduled_notifications (
    id         uuid        PRIMARY KEY,
    user_id    text        NOT NULL,
    deliver_at timestamptz NOT NULL,
    content    jsonb       NOT NULL
);
CREATE INDEX scheduled_notifications_by_time ON scheduled_notifications (deliver_at);

-- What happened in a topic and has no row of its own: changes of inboxes, events of applications.
CREATE TABLE topic_events (
    topic      text        NOT NULL,
    sequence   bigint      NOT NULL,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (topic, sequence)
);
CREATE INDEX topic_events_by_age ON topic_events (created_at);

CREATE TABLE idempotency_keys (
    key          text        PRIMARY KEY,
    request_hash bytea       NOT NULL,
    answer       jsonb,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (expires_at);

-- Browsers that can be woken. An endpoint belongs to whoever registered it last.
CREATE TABLE push_subscriptions (
    endpoint   text        PRIMARY KEY,
    user_id    text        NOT NULL,
    p256dh     text        NOT NULL,
    auth       text        NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX push_subscriptions_by_user ON push_subscriptions (user_id, created_at);

-- Ways out of the house that a notification has still to go: web push, the hook.
CREATE TABLE deliveries (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    way             text        NOT NULL CHECK (way IN ('push', 'hook')),
    notification_id uuid        NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0,
    due_at          timestamptz NOT NULL
);
CREATE INDEX deliveries_by_time ON deliveries (due_at);

-- What is said in rooms. An edit or a deletion gives a message a new sequence and leaves it in its position.
CREATE TABLE messages (
    id                uuid        PRIMARY KEY,
    room_id           text        NOT NULL,
    position          bigint      NOT NULL,
    sequence          bigint      NOT NULL,
    author            text        NOT NULL,
    client_message_id text,
    text              text        NOT NULL,
    metadata          json,
    created_at        timestamptz NOT NULL,
    edited_at         timestamptz,
    deleted_at        timestamptz,
    UNIQUE (room_id, position),
    UNIQUE (room_id, sequence),
    UNIQUE (room_id, author, client_message_id)
);
CREATE INDEX messages_by_age ON messages (created_at);

-- For programs that read the table of the system before this one.
CREATE SCHEMA legacy;
CREATE VIEW legacy.notifications AS
    SELECT notifications.id::text AS id,
           notifications.user_id AS "userId",
           notifications.type AS type,
           notifications.title AS title,
           notifications.message AS message,
           notifications.is_read OR notifications.marked <= inboxes.read_through AS "isRead",
           notifications.metadata::jsonb AS metadata,
           (notifications.created_at AT TIME ZONE 'UTC')::timestamp(3) AS "createdAt"
    FROM notifications JOIN inboxes ON inboxes.user_id = notifications.user_id
    WHERE NOT notifications.archived
      AND notifications.marked > inboxes.cleared_through
      AND NOT (notifications.is_read AND notifications.marked <= inboxes.cleared_at);

-- For whoever forgets what is old.
CREATE INDEX segments_by_age ON segments (stored_at);
CREATE INDEX outbox_by_age ON outbox (created_at);
