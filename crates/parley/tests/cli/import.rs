//! `parley import` against databases as the older systems made them.

use std::process::Stdio;

use testkit::{Database, eventually};

use crate::{
    database::with_database,
    scripted::{Said, parley},
};

const SYSTEM_A: &str = r#"
    CREATE TYPE "SessionStatus" AS ENUM ('CREATED', 'LIVE', 'ENDED', 'EXPIRED');
    CREATE TABLE "VideoSession" (
        id text PRIMARY KEY, slug text NOT NULL UNIQUE, status "SessionStatus" NOT NULL, "createdAt" timestamp(3) NOT NULL,
        "startedAt" timestamp(3), "endedAt" timestamp(3), "lastActivityAt" timestamp(3), "spaceId" text,
        "rawTranscript" text, "aiTitle" text, "aiTopicsJson" jsonb);
    CREATE TABLE "Participant" (
        id text PRIMARY KEY, "videoSessionId" text NOT NULL REFERENCES "VideoSession", "userId" text,
        identity text NOT NULL, name text NOT NULL, role text NOT NULL, "joinedAt" timestamp(3) NOT NULL,
        "leftAt" timestamp(3), UNIQUE ("videoSessionId", identity));
    CREATE TABLE "TranscriptSegment" (
        id text PRIMARY KEY, "videoSessionId" text NOT NULL REFERENCES "VideoSession",
        "participantId" text REFERENCES "Participant", "utteranceId" text NOT NULL, text text NOT NULL, language text,
        "isFinal" boolean NOT NULL, "startedAt" timestamp(3) NOT NULL, "endedAt" timestamp(3),
        "createdAt" timestamp(3) NOT NULL, UNIQUE ("videoSessionId", "utteranceId"));
    INSERT INTO "VideoSession" VALUES
        ('clx1', 'demo', 'ENDED', '2024-05-01 10:00', '2024-05-01 10:00:01', '2024-05-01 11:00', '2024-05-01 10:59'),
        ('clx2', 'standup', 'LIVE', '2024-05-02 10:00', '2024-05-02 10:00:01', NULL, '2024-05-02 10:30'),
        ('clx3', repeat('s', 200), 'ENDED', '2024-05-03 10:00', NULL, NULL, NULL);
    INSERT INTO "Participant" VALUES
        ('clp1', 'clx1', 'u1', 'alice', 'Alice', 'HOST', '2024-05-01 10:00', '2024-05-01 11:00'),
        ('clp2', 'clx1', NULL, 'guest-1', 'guest-1', 'GUEST', '2024-05-01 10:01', NULL),
        ('clp3', 'clx2', 'u1', 'alice', 'Alice', 'HOST', '2024-05-02 10:00', NULL);
    INSERT INTO "TranscriptSegment" VALUES
        ('cls3', 'clx1', NULL, 'gladia-3', 'Third.', NULL, true, '2024-05-01 10:00:30', NULL, '2024-05-01 10:00:31'),
        ('cls1', 'clx1', 'clp1', 'gladia-1', 'First.', 'en', true, '2024-05-01 10:00:10', '2024-05-01 10:00:12', '2024-05-01 10:00:12'),
        ('cls2', 'clx1', 'clp2', 'gladia-2', 'Second, مرحبا.', 'en', true, '2024-05-01 10:00:20', NULL, '2024-05-01 10:00:21'),
        ('cls4', 'clx1', NULL, 'gladia-4', 'Not yet', NULL, false, '2024-05-01 10:00:40', NULL, '2024-05-01 10:00:41'),
        ('cls5', 'clx1', NULL, 'gladia-5', repeat('x', 20000), NULL, true, '2024-05-01 10:00:50', NULL, '2024-05-01 10:00:51'),
        ('cls6', 'clx1', NULL, 'gladia-6', repeat('y', 50000), NULL, true, '2024-05-01 10:00:50', NULL, '2024-05-01 10:00:51'),
        ('cls7', 'clx1', NULL, 'gladia-7', 'When?', NULL, true, 'infinity', NULL, '2024-05-01 10:00:51'),
        ('cls8', 'clx1', NULL, E'gladia\t8', 'Who?', NULL, true, '2024-05-01 10:00:52', NULL, '2024-05-01 10:00:51'),
        ('cls9', 'clx2', 'clp3', 'gladia-1', 'Morning.', NULL, true, '2024-05-02 10:00:10', NULL, '2024-05-02 10:00:12');
"#;

const SYSTEM_B: &str = r#"
    CREATE TABLE messages (
        id serial PRIMARY KEY, content text NOT NULL, "userId" text, timestamp timestamp(3) NOT NULL DEFAULT now());
    INSERT INTO messages (content, "userId", timestamp) VALUES
        ('Second', 'bob', '2024-05-01 10:00:02'), (' First ', '0190b5a0-0000-7000-8000-000000000001', '2024-05-01 10:00:01'),
        ('Third', NULL, '2024-05-01 10:00:03'), ('  ', 'bob', '2024-05-01 10:00:04'),
        (repeat('z', 9000), 'bob', '2024-05-01 10:00:05'), ('Long ago', 'bob', '0044-03-15 BC');
"#;

const SYSTEM_C: &str = r#"
    CREATE TYPE "NotificationType" AS ENUM ('LIKE_POST', 'NEW_MESSAGE', 'what is this?');
    CREATE TABLE notifications (
        id text PRIMARY KEY, "userId" text NOT NULL, type "NotificationType" NOT NULL, title text NOT NULL,
        message text NOT NULL, "isRead" boolean NOT NULL DEFAULT false, metadata json,
        "createdAt" timestamp(3) NOT NULL DEFAULT now());
    CREATE TABLE user_settings (
        id text PRIMARY KEY, "userId" text NOT NULL, "notifyLikes" boolean NOT NULL, "notifyMoon" boolean NOT NULL);
    INSERT INTO user_settings VALUES ('s1', 'u1', false, true), ('s2', 'u2', true, true);
    INSERT INTO notifications VALUES
        ('cln2', 'u1', 'NEW_MESSAGE', 'Two', 'second', false, '{"from": "u2"}', '2024-05-01 10:00:02'),
        ('0190b5a0-0000-7000-8000-000000000001', 'u1', 'LIKE_POST', 'One', 'first', true, NULL, '2024-05-01 10:00:01'),
        ('cln3', 'u2', 'LIKE_POST', 'For another', '', false, '{}', '2024-05-01 10:00:01'),
        ('cln4', 'u1', 'what is this?', 'Unknown', '', false, NULL, '2024-05-01 10:00:03'),
        ('cln5', 'u1', 'LIKE_POST', ' ', '', false, NULL, '2024-05-01 10:00:03'),
        ('cln6', 'u1', 'LIKE_POST', 'Nul', '', false, '{"a": "\u0000"}', '2024-05-01 10:00:03'),
        ('cln7', 'u1', 'LIKE_POST', 'List', '', false, '[1]', '2024-05-01 10:00:03'),
        ('cln8', 'u1', 'LIKE_POST', 'Never', '', false, NULL, '-infinity'),
        ('cln9', repeat('u', 300), 'LIKE_POST', 'Whose?', '', false, NULL, '2024-05-01 10:00:03');
"#;

/// A database as an older system left it.
async fn old(sql: &str) -> Database {
    let database = Database::unmigrated().await;
    database.run(sql).await;
    database
}

/// Ours, in which everything that could ring a bell is set up.
async fn ours() -> Database {
    let database = Database::scratch().await;
    database
        .run(
            "INSERT INTO session_hook_events VALUES ('session.started'), ('session.ended'), ('transcript.final');
             INSERT INTO push_subscriptions VALUES ('https://push.example/1', 'u1', 'key', 'auth', now());",
        )
        .await;
    database
}

async fn import(ours: &Database, from: &str, old: &Database, more: &[&str]) -> Said {
    let url = old.url();
    with_database(ours, &[&["import", "--from", from, url.expose()], more].concat()).await
}

/// Rows as text, one line each.
async fn lines(database: &Database, sql: &str) -> Vec<String> {
    database.rows(sql).await.iter().map(|row| row.get(0)).collect()
}

async fn assert_no_bell_rang(database: &Database) {
    let bells =
        "SELECT (SELECT count(*) FROM outbox)::text || ' ' || (SELECT count(*) FROM deliveries)::text || ' '
                     || (SELECT count(*) FROM topic_events)::text";
    assert_eq!(lines(database, bells).await, ["0 0 0"], "announcements, deliveries, events");
}

#[tokio::test]
async fn sessions_and_transcripts_of_system_a() {
    let (old, ours) = (old(SYSTEM_A).await, ours().await);
    let trial = import(&ours, "a", &old, &["--dry-run"]).await;
    assert_eq!(trial.code, Some(0), "{}", trial.err);
    assert_eq!(
        trial.out,
        "sessions: 2 would be imported, 1 left out\nparticipants: 3 would be imported\n\
         segments: 4 would be imported, 4 left out, 1 partial, which are not kept\n\
         nothing is imported yet: repeat it without --dry-run\n"
    );
    assert_eq!(lines(&ours, "SELECT slug FROM sessions").await, Vec::<String>::new());

    let first = import(&ours, "a", &old, &[]).await;
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert_eq!(
        first.out,
        "sessions: 2 imported, 1 left out\nparticipants: 3 imported\n\
         segments: 4 imported, 4 left out, 1 partial, which are not kept\n"
    );
    for (row, why) in [
        ("session clx3", "128 bytes"),
        ("segment cls5", "more than 16384 bytes"),
        ("segment cls6", "more than 40000 characters"),
        ("segment cls7", "startedAt is no date"),
        ("segment cls8", "without control characters"),
    ] {
        let line =
            first.err.lines().find(|line| line.contains(row)).unwrap_or_else(|| panic!("{}", first.err));
        assert!(line.contains("is left out") && line.contains(why), "{line}");
    }
    assert!(!first.err.contains("yyy") && !first.err.contains("When?"), "what was said is not printed");
    let sessions = "SELECT concat_ws(' ', slug, external_id, status, created_at AT TIME ZONE 'UTC',
                        started_at AT TIME ZONE 'UTC', ended_at AT TIME ZONE 'UTC') FROM sessions ORDER BY slug";
    assert_eq!(
        lines(&ours, sessions).await,
        [
            "demo clx1 ended 2024-05-01 10:00:00 2024-05-01 10:00:01 2024-05-01 11:00:00",
            "standup clx2 ended 2024-05-02 10:00:00 2024-05-02 10:00:01 2024-05-02 10:30:00"
        ]
    );
    let segments = "SELECT concat_ws('|', slug, sequence, utterance_id, speaker_identity, speaker_name, text, segments.language,
                        segments.started_at AT TIME ZONE 'UTC', segments.ended_at AT TIME ZONE 'UTC')
                    FROM segments JOIN sessions ON sessions.id = session_id ORDER BY slug, sequence";
    let said = [
        "demo|1|gladia-1|alice|Alice|First.|en|2024-05-01 10:00:10|2024-05-01 10:00:12",
        "demo|2|gladia-2|guest-1|Second, مرحبا.|en|2024-05-01 10:00:20|2024-05-01 10:00:20",
        "demo|3|gladia-3|room|Third.|2024-05-01 10:00:30|2024-05-01 10:00:30",
        "standup|1|gladia-1|alice|Alice|Morning.|2024-05-02 10:00:10|2024-05-02 10:00:10",
    ];
    assert_eq!(lines(&ours, segments).await, said);
    let people = "SELECT concat_ws('|', slug, identity, name, user_id) FROM participants JOIN sessions
                  ON sessions.id = session_id ORDER BY slug, identity";
    assert_eq!(lines(&ours, people).await, ["demo|alice|Alice|u1", "demo|guest-1", "standup|alice|Alice|u1"]);
    let export = with_database(&ours, &["export", "--session", "demo", "--format", "txt"]).await;
    assert_eq!(export.out, "Alice: First.\nguest-1: Second, مرحبا.\nroom: Third.\n", "{}", export.err);

    // The older system goes on until the doors are changed, and one session was erased here meanwhile.
    old.run(
        r#"INSERT INTO "TranscriptSegment" VALUES
               ('cls10', 'clx1', 'clp1', 'gladia-10', 'Fourth.', NULL, true, '2024-05-01 10:01', NULL, '2024-05-01 10:01');
           UPDATE "VideoSession" SET status = 'ENDED', "endedAt" = '2024-05-02 12:00' WHERE id = 'clx2';"#,
    )
    .await;
    let again = import(&ours, "a", &old, &[]).await;
    assert_eq!(
        again.out,
        "sessions: 0 imported, 2 known before, 1 left out\nparticipants: 0 imported, 3 known before\n\
         segments: 1 imported, 4 known before, 4 left out, 1 partial, which are not kept\n",
        "{}",
        again.err
    );
    let mut all = said.map(str::to_owned).to_vec();
    all.insert(3, "demo|4|gladia-10|alice|Alice|Fourth.|2024-05-01 10:01:00|2024-05-01 10:01:00".to_owned());
    assert_eq!(lines(&ours, segments).await, all);
    assert_eq!(
        lines(&ours, "SELECT (ended_at AT TIME ZONE 'UTC')::text FROM sessions WHERE slug = 'standup'").await,
        ["2024-05-02 12:00:00"]
    );
    assert_no_bell_rang(&ours).await;
    assert_eq!(with_database(&ours, &["erase", "--session", "demo", "--yes"]).await.code, Some(0));
    let last = import(&ours, "a", &old, &[]).await;
    assert!(last.out.contains("segments: 0 imported, 5 known before"), "{}", last.out);
    assert_eq!(lines(&ours, "SELECT slug FROM sessions").await, ["standup"]);
}

#[tokio::test]
async fn messages_of_system_b() {
    let (old, ours) = (old(SYSTEM_B).await, ours().await);
    let first = import(&ours, "b", &old, &[]).await;
    assert_eq!(
        (first.code, first.out.as_str()),
        (Some(0), "messages: 3 imported, 3 left out\n"),
        "{}",
        first.err
    );
    assert!(first.err.contains("message 4 is left out: the text must have"), "{}", first.err);
    assert!(first.err.contains("message 6 is left out: its timestamp is no date"), "{}", first.err);
    let said = "SELECT concat_ws('|', room_id, sequence, position, author, text, kind, created_at AT TIME ZONE 'UTC')
                FROM messages ORDER BY position";
    let expected = [
        "general|1|1|anonymous:0190b5a0-0000-7000-8000-000000000001|First|text|2024-05-01 10:00:01",
        "general|2|2|anonymous:bob|Second|text|2024-05-01 10:00:02",
        "general|3|3|anonymous:unknown|Third|text|2024-05-01 10:00:03",
    ];
    assert_eq!(lines(&ours, said).await, expected);
    let again = import(&ours, "b", &old, &[]).await;
    assert_eq!(again.out, "messages: 0 imported, 3 known before, 3 left out\n");
    assert_eq!(lines(&ours, said).await, expected);
    // Another installation counts from 1 as well.
    let other = import(&ours, "b", &old, &["--name", "other"]).await;
    assert_eq!(other.out, "messages: 3 imported, 3 left out\n", "{}", other.err);
    assert_eq!(lines(&ours, said).await.len(), 6);
    assert_no_bell_rang(&ours).await;
}

#[tokio::test]
async fn notifications_of_system_c() {
    let (old, ours) = (old(SYSTEM_C).await, ours().await);
    let first = import(&ours, "c", &old, &[]).await;
    assert_eq!(
        (first.code, first.out.as_str()),
        (Some(0), "notifications: 3 imported, 6 left out\nsettings: 1 imported, 1 that switch nothing off\n"),
        "{}",
        first.err
    );
    for (row, why) in [
        ("cln4", "ASCII"),
        ("cln5", "title"),
        ("cln6", "not a JSON object"),
        ("cln7", "not a JSON object"),
        ("cln8", "createdAt is no date"),
        ("cln9", "256 bytes"),
        ("setting notifyMoon", "no counterpart"),
    ] {
        assert!(
            first.err.lines().any(|line| line.contains(row) && (line.contains(why) || row == "cln4")),
            "{row}: {}",
            first.err
        );
    }
    let told = "SELECT concat_ws('|', user_id, sequence, marked, type, title, message, is_read, metadata,
                    created_at AT TIME ZONE 'UTC') FROM notifications ORDER BY user_id, sequence";
    let expected = [
        "u1|1|1|LIKE_POST|One|first|t|2024-05-01 10:00:01",
        "u1|2|2|NEW_MESSAGE|Two|second|f|{\"from\":\"u2\"}|2024-05-01 10:00:02",
        "u2|1|1|LIKE_POST|For another||f|{}|2024-05-01 10:00:01",
    ];
    assert_eq!(lines(&ours, told).await, expected);
    let kept = "SELECT id::text FROM notifications WHERE title = 'One'";
    assert_eq!(lines(&ours, kept).await, ["0190b5a0-0000-7000-8000-000000000001"]);
    let inboxes = "SELECT concat_ws('|', user_id, unread, listed, muted_types) FROM inboxes ORDER BY user_id";
    assert_eq!(lines(&ours, inboxes).await, ["u1|1|2|{LIKE_POST,LIKE_COMMENT}", "u2|1|1|{}"]);

    // What the user has chosen here since, and cleared, stays so.
    ours.run(
        "UPDATE inboxes SET muted_types = '{NEW_MESSAGE}' WHERE user_id = 'u1';
         DELETE FROM notifications WHERE user_id = 'u2'; UPDATE inboxes SET unread = 0, listed = 0 WHERE user_id = 'u2';",
    )
    .await;
    let again = import(&ours, "c", &old, &[]).await;
    assert!(
        again.out.starts_with("notifications: 0 imported, 3 known before, 6 left out\n"),
        "{}",
        again.out
    );
    assert_eq!(lines(&ours, told).await, expected[..2]);
    assert_eq!(lines(&ours, inboxes).await, ["u1|1|2|{NEW_MESSAGE}", "u2|0|0|{}"]);
    assert_no_bell_rang(&ours).await;
}

#[tokio::test]
async fn an_import_that_is_killed_goes_on_where_it_was() {
    let ours = ours().await;
    let old = old(SYSTEM_C).await;
    old.run(
        "TRUNCATE notifications;
         INSERT INTO notifications
         SELECT 'cln' || n, 'user ' || n % 700, 'LIKE_POST', 'Title ' || n, '', n % 3 = 0, NULL,
             timestamp '2024-05-01' + n * interval '1 second'
         FROM generate_series(1, 7000) AS n;",
    )
    .await;
    let url = old.url();
    for _ in 0..2 {
        let known = lines(&ours, "SELECT count(*)::text FROM imported").await;
        let mut running = parley(&["import", "--from", "c", url.expose()])
            .env("DATABASE_URL", ours.url().expose())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("some of it is imported", async || {
            lines(&ours, "SELECT count(*)::text FROM imported").await != known
                || running.try_wait().unwrap().is_some()
        })
        .await;
        running.kill().await.unwrap();
    }
    let rest = import(&ours, "c", &old, &[]).await;
    assert_eq!(rest.code, Some(0), "{}", rest.err);
    ours.run(
        "DO $$ BEGIN
             ASSERT (SELECT count(*) = 7000 AND count(DISTINCT title) = 7000 FROM notifications), 'all of them, once';
             ASSERT NOT EXISTS (
                 SELECT FROM (SELECT sequence, row_number() OVER (PARTITION BY user_id ORDER BY created_at) AS place
                              FROM notifications) AS placed WHERE sequence <> place), 'in the order of their times';
             ASSERT NOT EXISTS (
                 SELECT FROM inboxes JOIN (SELECT user_id, count(*) AS listed, count(*) FILTER (WHERE NOT is_read) AS unread
                                           FROM notifications GROUP BY user_id) AS counted USING (user_id)
                 WHERE inboxes.listed <> counted.listed OR inboxes.unread <> counted.unread), 'counts';
         END $$",
    )
    .await;
    assert_no_bell_rang(&ours).await;
}

#[tokio::test]
async fn what_cannot_be_imported_is_said_with_the_reason() {
    let ours = ours().await;
    let none = with_database(&ours, &["import", "--from", "d"]).await;
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("system d keeps nothing"), "{}", none.err);
    let missing = with_database(&ours, &["import", "--from", "a"]).await;
    assert!(missing.err.contains("parley import --from a DATABASE_URL"), "{}", missing.err);
    let empty = Database::unmigrated().await;
    for (from, says) in
        [("a", "no table VideoSession"), ("b", "no table messages"), ("c", "no table notifications")]
    {
        let said = import(&ours, from, &empty, &[]).await;
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(says), "{}", said.err);
    }
    let itself = import(&ours, "c", &ours, &[]).await;
    assert!(itself.err.contains("its table notifications has no column userId"), "{}", itself.err);
    let unmigrated = import(&empty, "c", &ours, &[]).await;
    assert!(unmigrated.err.contains("run `parley migrate`"), "{}", unmigrated.err);
    let away = with_database(&ours, &["import", "--from", "a", "postgres://me:hunter2@127.0.0.1:1/x"]).await;
    assert!(away.err.contains("the older system's database: Postgres is not available"), "{}", away.err);
    assert!(!away.err.contains("hunter2"), "{}", away.err);
    let usage = with_database(&ours, &["import", "--from", "e", "postgres://h/x"]).await;
    assert_eq!(usage.code, Some(2));
}
