//! Whether an inbox or a room stays fast when it is large: what Postgres does for each statement when one user has 50,000
//! notifications, or one room as many messages, by its own account. Reading all of them takes over a thousand blocks, and
//! would show.

use std::fmt::Write;

use testkit::Database;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::{
    connection::Statement, messages, notifications, notifications_change, notifications_due,
    notifications_list,
};

const ROWS: u32 = 50_000;

/// Blocks (8 KiB) that one statement may touch.
const BLOCKS_MAX: u64 = 60;

const SEED: &str = "
    INSERT INTO topics (name, sequence) VALUES ('user:u1', 50000), ('user:u2', 10);
    INSERT INTO inboxes (user_id, unread, listed, read_through) VALUES ('u1', 16000, 50000, 0), ('u2', 10, 10, 0);
    INSERT INTO notifications (id, user_id, sequence, type, title, message, priority, is_read, marked, created_at)
    SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'u1', n,
        CASE WHEN n % 1000 = 0 THEN 'RARE' ELSE 'LIKE_POST' END, 'title', 'message', 1, n % 3 = 0, n, now()
    FROM generate_series(1, 50000) AS n;
    UPDATE notifications SET is_read = false, marked = 49999 WHERE sequence IN (3, 6, 9)";

/// Statements and what they are executed with.
fn statements() -> Vec<(&'static Statement, &'static str)> {
    let ids = "ARRAY['00000000-0000-0000-0000-000000000005', '00000000-0000-0000-0000-000000049999']::uuid[]";
    let mark: &'static str = format!("'u1', {ids}, now(), 1, NULL").leak();
    vec![
        (&notifications_list::LISTED, "'u1', 9223372036854775807, 20"),
        (&notifications_list::LISTED, "'u1', 25000, 20"),
        (&notifications_list::LISTED_BY_TYPE, "'u1', 9223372036854775807, 20, ARRAY['RARE', 'NONE']"),
        (&notifications_list::UNREAD, "'u1', 9223372036854775807, 20"),
        (&notifications_list::UNREAD_BY_TYPE, "'u1', 9223372036854775807, 20, ARRAY['RARE', 'NONE']"),
        (&notifications_list::ARCHIVED, "'u1', 9223372036854775807, 20, '{}'"),
        (&notifications_list::COUNT, "'u1'"),
        (&notifications_change::READ, mark),
        (&notifications_change::UNREAD, mark),
        (&notifications_change::ARCHIVE, mark),
        (&notifications_change::DELETE, mark),
        (&notifications_change::READ_ALL, "'u1', 1, now(), NULL"),
        (&notifications_change::CLEAR, "'u1', 1, now(), NULL"),
        (&notifications_due::NEXT, ""),
        (&notifications_due::EXPIRED, "now(), 200"),
        (
            &notifications::STORE,
            "ARRAY['u1'], ARRAY[gen_random_uuid()], 'LIKE_POST', 'title', 'message', NULL, 1::smallint, NULL, 'key',
             now(), '{}', false, false, NULL, 1, NULL",
        ),
    ]
}

#[tokio::test]
async fn no_statement_reads_more_of_a_large_inbox_than_it_shows() {
    let database = Database::scratch().await;
    with_client(&database, SEED, async |client| {
        let mut faults = String::new();
        for watermark in [0, ROWS - 10] {
            client
                .batch_execute(&format!("UPDATE inboxes SET read_through = {watermark} WHERE user_id = 'u1'"))
                .await
                .unwrap();
            for (statement, arguments) in statements() {
                if let Some(fault) = reads_much(&client, statement, arguments).await {
                    writeln!(faults, "at {watermark} {fault}").unwrap();
                }
            }
        }
        assert!(faults.is_empty(), "{faults}");
    })
    .await;
}

/// One room in which one author has said much, and the room of a session in which the same author has said as much since.
const CHAT_SEED: &str = "
    INSERT INTO topics (name, sequence) VALUES ('room:general', 50000), ('room:session:demo', 50000);
    INSERT INTO messages (id, room_id, position, sequence, author, client_message_id, text, created_at, kind)
    SELECT ('00000000-0000-0000-000' || room || '-' || lpad(n::text, 12, '0'))::uuid,
        CASE room WHEN 0 THEN 'general' ELSE 'session:demo' END, n, n, 'u1', 'c' || n, 'text',
        now() + room * interval '1 day' + n * interval '1 second', CASE WHEN n % 5000 = 1 THEN 'image' ELSE 'text' END
    FROM generate_series(1, 50000) AS n, generate_series(0, 1) AS room;
    UPDATE messages SET deleted_at = now() WHERE room_id = 'general' AND position > 49000";

/// Statements about rooms and what they are executed with.
fn chat_statements() -> Vec<(&'static Statement, &'static str)> {
    let said = "'00000000-0000-0000-0000-000000000005'";
    let amended: &'static str = format!("'general', now(), {said}, 'u1', 'text', NULL").leak();
    let reply: &'static str = format!(
        "'general', now(), gen_random_uuid(), 'u1', 'new', 'text', NULL, 'text', 'Name', {said}, NULL"
    )
    .leak();
    vec![
        (&messages::SEND, reply),
        (
            &messages::SEND,
            "'general', now(), gen_random_uuid(), 'u1', NULL, 'text', NULL, 'file', NULL, NULL, NULL",
        ),
        (
            &messages::SEND,
            "'general', now(), gen_random_uuid(), 'u1', 'c7', 'text', NULL, 'text', NULL, NULL, NULL",
        ),
        (&messages::EDIT, amended),
        (&messages::TAKE_BACK, amended),
        (&messages::HISTORY, "'general', 25000, 20"),
        (&messages::SINCE, "'general', 25000, 20"),
        (&messages::OF_AUTHOR, "'u1', 20"),
        (&messages::OF_AUTHOR, "'nobody', 20"),
        (&messages::OF_KIND, "'image', 20"),
        (&messages::OF_KIND, "'text', 20"),
        (&messages::COUNT, "'general', 10000"),
    ]
}

#[tokio::test]
async fn no_statement_reads_more_of_a_large_room_than_it_shows() {
    let database = Database::scratch().await;
    with_client(&database, CHAT_SEED, async |client| {
        let mut faults = String::new();
        for (statement, arguments) in chat_statements() {
            if let Some(fault) = reads_much(&client, statement, arguments).await {
                writeln!(faults, "{fault}").unwrap();
            }
        }
        assert!(faults.is_empty(), "{faults}");
    })
    .await;
}

/// Sows a database and works on it by a connection of one's own.
async fn with_client<F: Future<Output = ()>>(
    database: &Database,
    seed: &str,
    work: impl FnOnce(Client) -> F,
) {
    let (client, connection) = tokio_postgres::connect(database.url().expose(), NoTls).await.unwrap();
    let connection = std::pin::pin!(connection);
    let work = async {
        for statement in seed.split(';') {
            client.batch_execute(statement).await.unwrap();
        }
        tidy(&client).await;
        work(client).await;
    };
    tokio::select! {
        () = work => {}
        ended = connection => panic!("{ended:?}"),
    }
}

/// Vacuums until every row counts as visible to all, without which indexes alone answer nothing. One vacuum may not come
/// to that: an automatic `ANALYZE` that runs meanwhile still looks at what was before.
async fn tidy(client: &Client) {
    const VACUUMS_MAX: usize = 100;
    for _ in 0..VACUUMS_MAX {
        client.batch_execute("VACUUM (ANALYZE, INDEX_CLEANUP ON)").await.unwrap();
        let hidden = "SELECT count(*) FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relallvisible < relpages";
        if client.query_one(hidden, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("rows stay hidden after {VACUUMS_MAX} vacuums");
}

/// What Postgres did for a statement, when it touched more than [`BLOCKS_MAX`]; all of it is undone.
async fn reads_much(client: &Client, statement: &Statement, arguments: &str) -> Option<String> {
    client.batch_execute(&format!("PREPARE tried AS {}", statement.sql)).await.unwrap();
    let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
    let explain = format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan;
         EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE tried{arguments}; ROLLBACK"
    );
    let answer = client.simple_query(&explain).await.unwrap();
    let plan = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(plan.unwrap()).unwrap();
    let plan = &plan[0]["Plan"];
    let blocks = ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|name| plan[name].as_u64());
    let blocks: u64 = blocks.sum();
    client.batch_execute("DEALLOCATE tried").await.unwrap();
    (blocks > BLOCKS_MAX).then(|| format!("{}: {blocks} blocks: {plan:#}", statement.name))
}
