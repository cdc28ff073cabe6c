-- Where in a trace a fact was stored (traceparent of W3C Trace Context), so that its announcement goes on from there; NULL
-- when nobody traced it, and from writers that do not know.
ALTER TABLE outbox ADD COLUMN traceparent text;
