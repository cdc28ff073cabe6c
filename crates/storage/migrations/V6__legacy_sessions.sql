-- For programs that read the tables of the transcription system before this one. NULL where we have no source. Times are
-- UTC, ids are text. Their sessions were found by the id of a row that is not ours: find them by "slug", or by
-- "externalId", under which the application has started them.

-- Such a program asks by the text of an id; it must not read everybody's rows for that.
CREATE INDEX sessions_by_text ON sessions ((id::text));
CREATE INDEX segments_by_session_text ON segments ((session_id::text), started_at);
CREATE INDEX participants_by_session_text ON participants ((session_id::text));
CREATE INDEX usage_by_session_text ON usage ((session_id::text));

CREATE VIEW legacy."VideoSession" AS
    SELECT id::text AS id,
           slug,
           external_id AS "externalId",
           upper(status) AS status,
           (created_at AT TIME ZONE 'UTC')::timestamp(3) AS "createdAt",
           (started_at AT TIME ZONE 'UTC')::timestamp(3) AS "startedAt",
           (ended_at AT TIME ZONE 'UTC')::timestamp(3) AS "endedAt",
           (last_activity_at AT TIME ZONE 'UTC')::timestamp(3) AS "lastActivityAt",
           NULL::text AS "spaceId",
           NULL::text AS "rawTranscript",
           NULL::text AS "aiTitle",
           NULL::text AS "aiCurrentTopic",
           NULL::jsonb AS "aiTopicsJson",
           NULL::timestamp(3) AS "aiUpdatedAt"
    FROM sessions;

-- Who was there, and who was heard without being there: an encoder, a caption from outside.
CREATE VIEW legacy."Participant" AS
    SELECT participants.session_id::text || ':' || participants.identity AS id,
           participants.session_id::text AS "videoSessionId",
           participants.user_id AS "userId",
           participants.identity,
           COALESCE(participants.name, participants.identity) AS name,
           'GUEST'::text AS role,
           (participants.joined_at AT TIME ZONE 'UTC')::timestamp(3) AS "joinedAt",
           -- That somebody has left is known once the session has ended.
           CASE WHEN sessions.status = 'ended'
                THEN (participants.last_seen_at AT TIME ZONE 'UTC')::timestamp(3) END AS "leftAt"
    FROM participants JOIN sessions ON sessions.id = participants.session_id
    UNION ALL
    SELECT segments.session_id::text || ':' || segments.speaker_identity,
           segments.session_id::text,
           NULL,
           segments.speaker_identity,
           COALESCE(max(segments.speaker_name), segments.speaker_identity),
           'GUEST',
           (min(segments.started_at) AT TIME ZONE 'UTC')::timestamp(3),
           NULL
    FROM segments
    WHERE segments.speaker_identity <> 'room'
      AND NOT EXISTS (SELECT FROM participants
                      WHERE participants.session_id = segments.session_id
                        AND participants.identity = segments.speaker_identity)
    GROUP BY segments.session_id, segments.session_id::text, segments.speaker_identity;

CREATE VIEW legacy."TranscriptSegment" AS
    SELECT segments.session_id::text || ':' || segments.utterance_id AS id,
           segments.session_id::text AS "videoSessionId",
           CASE WHEN segments.speaker_identity <> 'room'
                THEN segments.session_id::text || ':' || segments.speaker_identity END AS "participantId",
           segments.utterance_id AS "utteranceId",
           segments.text,
           segments.language,
           true AS "isFinal",
           (segments.started_at AT TIME ZONE 'UTC')::timestamp(3) AS "startedAt",
           (segments.ended_at AT TIME ZONE 'UTC')::timestamp(3) AS "endedAt",
           (segments.stored_at AT TIME ZONE 'UTC')::timestamp(3) AS "createdAt"
    FROM segments
    WHERE NOT EXISTS (SELECT FROM segments AS newer
                      WHERE newer.session_id = segments.session_id AND newer.utterance_id = segments.utterance_id
                        AND newer.revision > segments.revision);

-- Seconds are those that were really processed; the counts are what a browser said of that time, if one did. What a minute
-- costs is a setting of the program that asks.
CREATE VIEW legacy."TranscriptionUsage" AS
    SELECT usage.stream_id::text || ':' || usage.engine AS id,
           usage.session_id::text AS "videoSessionId",
           usage.identity AS "participantIdentity",
           usage.user_id AS "userId",
           (usage.started_at AT TIME ZONE 'UTC')::timestamp(3) AS "startedAt",
           (usage.ended_at AT TIME ZONE 'UTC')::timestamp(3) AS "endedAt",
           usage.samples / 16000.0::double precision AS "durationSeconds",
           ceil(usage.samples / 960000.0::double precision)::integer AS "durationMinutes",
           COALESCE(report.audio_chunks_sent, 0) AS "audioChunksSent",
           COALESCE(report.transcripts, 0) AS "transcriptsReceived",
           COALESCE(report.final_transcripts, 0) AS "finalTranscripts",
           COALESCE(report.partial_transcripts, 0) AS "partialTranscripts",
           COALESCE(report.errors, 0) AS "errorsCount",
           NULL::double precision AS "totalCost"
    FROM usage LEFT JOIN LATERAL (
        SELECT usage_reports.* FROM usage_reports
        WHERE usage_reports.session_id = usage.session_id AND usage_reports.identity = usage.identity
          AND usage_reports.started_at <= usage.ended_at AND usage_reports.ended_at >= usage.started_at
        ORDER BY usage_reports.reported_at DESC, usage_reports.id DESC LIMIT 1) AS report ON true;
