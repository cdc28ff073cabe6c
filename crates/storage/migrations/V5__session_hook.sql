-- What the hook of sessions is told. The hub fills it from its settings, and empties it when there is no such hook: what
-- nobody hears is not written down.
CREATE TABLE session_hook_events (
    event text PRIMARY KEY
);

-- One more way out of the house, of what happened in a session. It is written in the transaction in which that happened,
-- whichever process writes.
ALTER TABLE deliveries DROP CONSTRAINT deliveries_way_check;
ALTER TABLE deliveries ALTER COLUMN notification_id DROP NOT NULL;
-- The receiver deduplicates by it.
ALTER TABLE deliveries ADD COLUMN event_id uuid;
ALTER TABLE deliveries ADD COLUMN event text;
-- {"session", "external_id", "at", "started_at", "ended_at"} or {"session", "external_id", "at", "sequence"}, times in
-- milliseconds. No text: what was said is read when it is sent, and is not sent once it is deleted.
ALTER TABLE deliveries ADD COLUMN content jsonb;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_of_notifications_or_sessions CHECK (CASE way
    WHEN 'session' THEN notification_id IS NULL AND event_id IS NOT NULL AND event IS NOT NULL AND content IS NOT NULL
    ELSE way IN ('push', 'hook') AND notification_id IS NOT NULL AND event_id IS NULL END);
-- Two queues: what waits in one is not in the way of the other.
DROP INDEX deliveries_by_time;
CREATE INDEX deliveries_of_notifications ON deliveries (due_at, id) WHERE way <> 'session';
CREATE INDEX deliveries_of_sessions ON deliveries (due_at, id) WHERE way = 'session';

CREATE FUNCTION tell_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    happened text := CASE NEW.status WHEN 'live' THEN 'session.started' ELSE 'session.ended' END;
    happened_at timestamptz := COALESCE(NEW.ended_at, NEW.last_activity_at);
BEGIN
    INSERT INTO deliveries (way, due_at, event_id, event, content)
    SELECT 'session', happened_at, gen_random_uuid(), event, jsonb_build_object(
        'session', NEW.id, 'external_id', NEW.external_id,
        'at', (extract(epoch FROM happened_at) * 1000)::bigint,
        'started_at', (extract(epoch FROM NEW.started_at) * 1000)::bigint,
        'ended_at', (extract(epoch FROM NEW.ended_at) * 1000)::bigint)
    FROM session_hook_events WHERE event = happened;
    RETURN NULL;
END $$;
CREATE TRIGGER session_began AFTER INSERT ON sessions
    FOR EACH ROW WHEN (NEW.status <> 'created') EXECUTE FUNCTION tell_of_session();
CREATE TRIGGER session_changed AFTER UPDATE OF status ON sessions
    FOR EACH ROW WHEN (NEW.status <> 'created' AND NEW.status <> OLD.status) EXECUTE FUNCTION tell_of_session();

CREATE FUNCTION tell_of_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deliveries (way, due_at, event_id, event, content)
    SELECT 'session', NEW.stored_at, gen_random_uuid(), event, jsonb_build_object(
        'session', NEW.session_id, 'external_id', sessions.external_id,
        'at', (extract(epoch FROM NEW.stored_at) * 1000)::bigint, 'sequence', NEW.sequence)
    FROM session_hook_events JOIN sessions ON sessions.id = NEW.session_id WHERE event = 'transcript.final';
    RETURN NULL;
END $$;
CREATE TRIGGER final_stored AFTER INSERT ON segments FOR EACH ROW EXECUTE FUNCTION tell_of_final();
