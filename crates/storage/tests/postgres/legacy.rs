//! What programs read that know the tables of the transcription system before this one.

use std::time::Duration;

use model::{EngineName, Samples, Speaker, UtteranceId};
use storage::{Metered, Revision};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

#[tokio::test]
async fn a_finaliser_reads_sessions_speakers_and_segments() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let session = storage.start_session(&slug("demo"), "clx1", None, NOW).await.unwrap().id;
    let user = "u1".parse().unwrap();
    storage
        .upsert_participant(session, &"alice".parse().unwrap(), Some("Alice"), Some(&user), NOW)
        .await
        .unwrap();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    for number in 1..=2 {
        store(&storage, &utterance("demo", stream_id(1), &open, number)).await;
    }
    let said = |utterance: UtteranceId, speaker: Option<Speaker>, text: &str| Revision {
        session: slug("demo"),
        utterance,
        speaker,
        text: text.to_owned(),
        language: None,
        outside: None,
        said_at: NOW,
        at: NOW,
    };
    let bot = Speaker { identity: "bot".parse().unwrap(), name: Some("Bot".to_owned()) };
    for revision in [
        said("utt-1".parse().unwrap(), Some(bot), "From outside."),
        said("utt-2".parse().unwrap(), None, "From the room."),
        said(UtteranceId::Heard { stream: stream_id(1), number: 1 }, None, "Corrected."),
    ] {
        storage.revise(&revision).await.unwrap().unwrap();
    }
    storage.stop_session("clx1", NOW.after(Duration::from_secs(60))).await.unwrap();

    let found = database
        .rows(r#"SELECT id, "startedAt"::text, "endedAt"::text, "spaceId", "aiTopicsJson"::text FROM legacy."VideoSession"
                 WHERE slug = 'demo' AND "externalId" = 'clx1' AND status = 'ENDED'"#)
        .await;
    let id: String = found[0].get(0);
    assert_eq!(id, session.0.to_string());
    assert_eq!(
        (found[0].get::<_, &str>(1), found[0].get::<_, &str>(2)),
        ("2023-11-14 22:13:20", "2023-11-14 22:14:20")
    );
    assert_eq!((found[0].get::<_, Option<&str>>(3), found[0].get::<_, Option<&str>>(4)), (None, None));

    let rows = database
        .rows(&format!(
            r#"SELECT segment.id, segment.text, segment."isFinal", segment."startedAt"::text, participant.identity,
                      participant.name, participant.role, participant."userId"
               FROM legacy."TranscriptSegment" AS segment
               LEFT JOIN legacy."Participant" AS participant ON participant.id = segment."participantId"
               WHERE segment."videoSessionId" = '{id}' ORDER BY segment."startedAt", segment."utteranceId""#
        ))
        .await;
    let speaker = |row: usize| -> (Option<&str>, Option<&str>, Option<&str>, Option<&str>) {
        (rows[row].get(4), rows[row].get(5), rows[row].get(6), rows[row].get(7))
    };
    let texts: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(texts, ["From outside.", "From the room.", "Corrected.", "Utterance 2, مرحبا."]);
    assert!(rows.iter().all(|row| row.get(2)));
    assert_eq!(rows[2].get::<_, &str>(3), "2023-11-14 22:13:21.5");
    assert_eq!(speaker(0), (Some("bot"), Some("Bot"), Some("GUEST"), None));
    assert_eq!(speaker(1), (None, None, None, None));
    assert_eq!(speaker(2), (Some("alice"), Some("Alice"), Some("GUEST"), Some("u1")));
    assert_eq!(speaker(3), speaker(2));
    database
        .run(
            r#"DO $$ BEGIN
                   ASSERT (SELECT count(*) = count(DISTINCT id) FROM legacy."TranscriptSegment"), 'ids of segments';
                   ASSERT (SELECT array_agg(identity ORDER BY identity) = '{alice,bot}' FROM legacy."Participant"), 'who';
                   ASSERT (SELECT "leftAt" = '2023-11-14 22:13:20' FROM legacy."Participant" WHERE identity = 'alice'), 'left';
               END $$"#,
        )
        .await;
}

#[tokio::test]
async fn usage_has_what_was_processed_and_what_browsers_said() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let metered = Metered {
        stream: stream_id(1),
        epoch: open.epoch,
        engine: EngineName::Moonshine,
        heard_end: Samples::from_millis(90_000),
        sound: Samples::from_millis(90_000),
        at: NOW.after(Duration::from_secs(90)),
    };
    storage.meter(&metered).await.unwrap();
    let read = async || {
        let rows = database
            .rows(
                r#"SELECT "durationSeconds", "durationMinutes", "audioChunksSent", "finalTranscripts", "totalCost"
                   FROM legacy."TranscriptionUsage"
                   WHERE "videoSessionId" = (SELECT id FROM legacy."VideoSession" WHERE slug = 'demo')
                     AND "participantIdentity" = 'alice'"#,
            )
            .await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<_, Option<f64>>(4), None);
        (
            rows[0].get::<_, f64>(0),
            rows[0].get::<_, i32>(1),
            rows[0].get::<_, i64>(2),
            rows[0].get::<_, i64>(3),
        )
    };
    assert_eq!(read().await, (90.0, 2, 0, 0));
    // Two tellings of the same time: the later one counts. One of another time does not.
    database
        .run(
            "INSERT INTO usage_reports (session_id, identity, started_at, ended_at, duration_seconds, audio_chunks_sent,
                 transcripts, final_transcripts, partial_transcripts, errors, reported_at)
             SELECT usage.session_id, usage.identity, usage.started_at + late, usage.ended_at + late, 90, chunks, 9, 3, 6, 0,
                 usage.ended_at + late + told
             FROM usage, (VALUES (interval '0', interval '1 s', 100), (interval '0', interval '2 s', 200),
                                 (interval '1 hour', interval '1 s', 300)) AS reports (late, told, chunks)",
        )
        .await;
    assert_eq!(read().await, (90.0, 2, 200, 3));
}

#[tokio::test]
async fn a_session_is_read_without_reading_what_was_said_in_others() {
    let database = Database::scratch().await;
    database
        .run(
            "INSERT INTO sessions (slug, status, created_at, last_activity_at)
             SELECT 'session ' || n, 'live', now(), now() FROM generate_series(1, 2000) AS n;
             INSERT INTO segments (session_id, sequence, outside_id, revision, speaker_identity, text, start_sample,
                 end_sample, words, started_at, ended_at, stored_at)
             SELECT id, n, 'utt-' || n, 0, 'alice', 'Hello.', 0, 0, '[]', now(), now(), now()
             FROM sessions, generate_series(1, 10) AS n;
             INSERT INTO participants (session_id, identity, joined_at, last_seen_at)
             SELECT id, 'bob', now(), now() FROM sessions;
             ANALYZE;",
        )
        .await;
    let session: String =
        database.rows("SELECT id::text FROM sessions WHERE slug = 'session 7'").await[0].get(0);
    for (view, count) in [("TranscriptSegment", 10), ("Participant", 2)] {
        let select = format!(r#"SELECT * FROM legacy."{view}" WHERE "videoSessionId" = '{session}'"#);
        assert_eq!(database.rows(&select).await.len(), count);
        let plan: Vec<String> =
            database.rows(&format!("EXPLAIN {select}")).await.iter().map(|row| row.get(0)).collect();
        assert!(
            plan.iter().any(|line| line.contains("segments_by_session_text")),
            "{view}: {}",
            plan.join("\n")
        );
        assert!(
            !plan.iter().any(|line| line.contains("Seq Scan on segments")),
            "{view}: {}",
            plan.join("\n")
        );
    }
}
