//! What was used, and what clients say of it.

use std::time::Duration;

use model::{EngineName, Samples, Timestamp};
use storage::{Metered, REPORTS_MAX, Storage, UsageReport, UsageTotals};
use testkit::Database;

use crate::{NOW, new_stream, slug, stream_id};

/// Meters so many seconds of a stream of its own.
async fn used(
    storage: &Storage,
    stream: u128,
    session: &str,
    who: (&str, Option<&str>),
    seconds: &[(EngineName, u64)],
) {
    let mut new = new_stream(session, stream_id(stream));
    new.speaker.identity = who.0.parse().unwrap();
    new.user = who.1.map(|user| user.parse().unwrap());
    let open = storage.open_stream(&new).await.unwrap();
    let mut heard_end = Samples(0);
    for (engine, seconds) in seconds {
        let sound = Samples(seconds * 16_000);
        heard_end = heard_end + sound;
        let at = NOW.after(Duration::from_secs(1000));
        let metered =
            Metered { stream: stream_id(stream), epoch: open.epoch, engine: *engine, heard_end, sound, at };
        storage.meter(&metered).await.unwrap();
    }
}

#[tokio::test]
async fn usage_is_listed_by_participant_and_engine_and_counted_in_begun_minutes() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (alice, bob) = (("alice", Some("u1")), ("bob", None));
    // Alice came twice, and her engine changed on the way.
    used(&storage, 1, "demo", alice, &[(EngineName::Moonshine, 50), (EngineName::Gladia, 30)]).await;
    used(&storage, 2, "demo", alice, &[(EngineName::Moonshine, 15)]).await;
    used(&storage, 3, "demo", bob, &[(EngineName::Moonshine, 1)]).await;
    used(&storage, 4, "other", alice, &[(EngineName::Moonshine, 60)]).await;
    let rows = storage.session_usage(&slug("demo")).await.unwrap();
    let mut seconds: Vec<_> = rows
        .iter()
        .map(|row| (row.identity.as_ref().unwrap().as_str(), row.engine.as_str(), row.sound.seconds() as u64))
        .collect();
    seconds.sort_unstable();
    assert_eq!(seconds, [("alice", "gladia", 30), ("alice", "moonshine", 65), ("bob", "moonshine", 1)]);
    let row = rows.iter().find(|row| row.engine == "gladia").unwrap();
    assert_eq!(row.user.as_ref().unwrap().as_str(), "u1");
    assert_eq!(row.ended_at.since(row.started_at), Duration::from_secs(30));

    // 95 s are two begun minutes, one second is one.
    let demo = storage.session_usage_totals(&slug("demo")).await.unwrap();
    assert_eq!(demo, UsageTotals { minutes: 3, rows: 2 });
    assert_eq!(storage.usage_totals(None).await.unwrap(), UsageTotals { minutes: 4, rows: 3 });
    let of = async |user: &str| storage.usage_totals(Some(&user.parse().unwrap())).await.unwrap();
    assert_eq!(of("u1").await, UsageTotals { minutes: 3, rows: 2 });
    assert_eq!(of("u2").await, UsageTotals::default());
    assert_eq!(storage.session_usage(&slug("none")).await.unwrap(), []);
    assert_eq!(storage.session_usage_totals(&slug("none")).await.unwrap(), UsageTotals::default());
}

#[tokio::test]
async fn what_clients_say_is_kept_beside_and_bounded() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let report = |identity: &str, started: i64, errors| UsageReport {
        identity: identity.parse().unwrap(),
        user: Some("u1".parse().unwrap()),
        started_at: Timestamp(NOW.0 + started),
        ended_at: Timestamp(NOW.0 + started + 90_000),
        duration_seconds: 90.5,
        audio_chunks_sent: 7,
        transcripts: 6,
        final_transcripts: 2,
        partial_transcripts: 4,
        errors,
    };
    let say = async |report: &UsageReport| storage.report_usage(&slug("demo"), report, NOW).await.unwrap();
    assert_eq!(say(&report("alice", 0, 0)).await, None, "no such session");
    storage.touch_session(&slug("demo"), NOW).await.unwrap();
    assert_eq!(say(&report("alice", 0, 0)).await, Some(true));
    assert_eq!(say(&report("alice", 0, 3)).await, Some(true));
    assert_eq!(storage.usage_reports(&slug("demo")).await.unwrap(), [report("alice", 0, 3)]);
    assert_eq!(storage.usage_totals(None).await.unwrap(), UsageTotals::default(), "never billed");
    database
        .run(&format!(
            "INSERT INTO usage_reports (session_id, identity, started_at, ended_at, duration_seconds,
                 audio_chunks_sent, transcripts, final_transcripts, partial_transcripts, errors, reported_at)
             SELECT session_id, 'x' || n, started_at, ended_at, 1, 0, 0, 0, 0, 0, reported_at
             FROM usage_reports, generate_series(2, {REPORTS_MAX}) AS n"
        ))
        .await;
    assert_eq!(say(&report("bob", 0, 0)).await, Some(false));
    assert_eq!(say(&report("alice", 0, 4)).await, Some(true), "more of what is there");
}
