-- Chat has its doors: what a message is, who it was by in the words of that day, and what it replies to. Earlier ones
-- are texts of which no name is known. What is replied to may be forgotten first.
ALTER TABLE messages
    ADD COLUMN kind        text NOT NULL DEFAULT 'text' CHECK (kind IN ('text', 'image', 'file')),
    ADD COLUMN author_name text,
    ADD COLUMN reply_to    uuid;

-- For lists over all rooms, among which those of sessions are not, and for counting the messages of one.
CREATE INDEX messages_by_author ON messages (author, created_at, id)
    WHERE deleted_at IS NULL AND room_id NOT LIKE 'session:%';
CREATE INDEX messages_by_kind ON messages (kind, created_at, id)
    WHERE deleted_at IS NULL AND room_id NOT LIKE 'session:%';
CREATE INDEX messages_not_deleted ON messages (room_id) WHERE deleted_at IS NULL;
