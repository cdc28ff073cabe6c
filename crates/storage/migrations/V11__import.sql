-- What was taken over from a system before this one, so that taking it over again doubles nothing and brings nothing back
-- that was deleted here since. The ids are that system's.
CREATE TABLE imported (
    -- Which installation: `a`, `b`, `c`, or the name that the import was given.
    origin text NOT NULL,
    kind   text NOT NULL,
    id     text NOT NULL,
    PRIMARY KEY (origin, kind, id)
);

-- History rings no bell: who imports says so for the time of a transaction.
CREATE OR REPLACE FUNCTION tell_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    happened text := CASE NEW.status WHEN 'live' THEN 'session.started' ELSE 'session.ended' END;
    happened_at timestamptz := COALESCE(NEW.ended_at, NEW.last_activity_at);
BEGIN
    IF current_setting('parley.importing', true) = 'on' THEN RETURN NULL; END IF;
    INSERT INTO deliveries (way, due_at, event_id, event, content)
    SELECT 'session', happened_at, gen_random_uuid(), event, jsonb_build_object(
        'session', NEW.id, 'external_id', NEW.external_id,
        'at', (extract(epoch FROM happened_at) * 1000)::bigint,
        'started_at', (extract(epoch FROM NEW.started_at) * 1000)::bigint,
        'ended_at', (extract(epoch FROM NEW.ended_at) * 1000)::bigint)
    FROM session_hook_events WHERE event = happened;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tell_of_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('parley.importing', true) = 'on' THEN RETURN NULL; END IF;
    INSERT INTO deliveries (way, due_at, event_id, event, content)
    SELECT 'session', NEW.stored_at, gen_random_uuid(), event, jsonb_build_object(
        'session', NEW.session_id, 'external_id', sessions.external_id,
        'at', (extract(epoch FROM NEW.stored_at) * 1000)::bigint, 'sequence', NEW.sequence)
    FROM session_hook_events JOIN sessions ON sessions.id = NEW.session_id WHERE event = 'transcript.final';
    RETURN NULL;
END $$;
