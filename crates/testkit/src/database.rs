use std::{future::Future, time::Duration};

use model::Clock;
use settings::Secret;
use storage::{Storage, StorageSettings};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{
    address::{host, with_database},
    environment,
};

/// Names of scratch databases: this, when they were made in seconds since 1970, something random.
const SCRATCH: &str = "parley_scratch_";

/// Scratch databases that are older belong to tests that were killed.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Key of the advisory lock under which the template is made: "testkit" in ASCII.
const TEMPLATE_LOCK: i64 = 0x0074_6573_746b_6974;

/// A migrated database of one's own, dropped when this is.
pub struct Database {
    server: Secret,
    name: String,
}

impl Database {
    /// Makes it by copying a migrated template, which the first test of a schema makes.
    ///
    /// # Panics
    /// When `PARLEY_TEST_DATABASE_URL` is not set or does not lead to a server that lets us make databases.
    pub async fn scratch() -> Self {
        Self::copy_of(Some(template().await)).await
    }

    /// Makes one without any table.
    ///
    /// # Panics
    /// As [`Database::scratch`].
    pub async fn unmigrated() -> Self {
        Self::copy_of(None).await
    }

    async fn copy_of(template: Option<String>) -> Self {
        let server = environment::required(environment::DATABASE_URL);
        let made_at = Clock::system().now().0 / 1000;
        let name = format!("{SCRATCH}{made_at}_{}", Uuid::new_v4().simple());
        let template = template.map_or(String::new(), |template| format!(" TEMPLATE {template}"));
        with_client(&server, async |client| {
            run(&client, &format!("CREATE DATABASE {name}{template}")).await;
        })
        .await;
        Self { server, name }
    }

    /// Its URL.
    pub fn url(&self) -> Secret {
        with_database(&self.server, &self.name)
    }

    /// `host:port` of its server, for a [`crate::Cable`].
    pub fn host(&self) -> String {
        host(&self.server)
    }

    /// How a service would reach it.
    pub fn settings(&self) -> StorageSettings {
        StorageSettings { url: self.url(), connections_max: 8, connect_timeout: Duration::from_secs(10) }
    }

    /// A pool of connections to it.
    ///
    /// # Panics
    /// When the URL cannot be parsed.
    pub fn storage(&self) -> Storage {
        Storage::connect(&self.settings()).expect("a URL that was parsed before")
    }

    /// Runs SQL, for what the world would do to it.
    ///
    /// # Panics
    /// When Postgres refuses it.
    pub async fn run(&self, sql: &str) {
        with_client(&self.url(), async |client| run(&client, sql).await).await;
    }

    /// What SQL finds.
    ///
    /// # Panics
    /// When Postgres refuses it.
    pub async fn rows(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let mut rows = Vec::new();
        with_client(&self.url(), async |client| {
            rows = client.query(sql, &[]).await.expect("rows that can be read");
        })
        .await;
        rows
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime of its own: the test's may be on its way out, or panicking. A database that survives this is
        // dropped as a stale one later.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (client, connection) =
                    tokio_postgres::connect(server.expose(), NoTls).await.map_err(std::io::Error::other)?;
                let dropping = async move {
                    let _survives = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
                };
                futures_util::future::join(dropping, connection).await.1.map_err(std::io::Error::other)
            })
        });
        let _survives = dropping.join();
    }
}

/// The name of a database with today's schema and no rows. Makes it when it is not there, and drops what killed
/// tests have left.
async fn template() -> String {
    let server = environment::required(environment::DATABASE_URL);
    let name = format!("parley_template_{:016x}", storage::schema_fingerprint());
    let stale = Clock::system().now().0 / 1000 - STALE_AFTER.as_secs().cast_signed();
    with_client(&server, async |client| {
        let exists = async || {
            let found = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name]).await;
            found.expect("the list of databases").is_some()
        };
        drop_stale(&client, stale).await;
        if exists().await {
            return;
        }
        run(&client, &format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
        if exists().await {
            return;
        }
        let unfinished = format!("{name}_unfinished");
        run(&client, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        run(&client, &format!("CREATE DATABASE {unfinished}")).await;
        let settings = StorageSettings {
            url: with_database(&server, &unfinished),
            connections_max: 1,
            connect_timeout: Duration::from_secs(10),
        };
        let storage = Storage::connect(&settings).expect("a URL that was parsed before");
        storage.migrate().await.expect("migrations that run");
        drop(storage);
        // Postgres copies and renames only what nobody is connected to, and connections end a moment after they are
        // closed.
        crate::eventually("the template is left alone", async || {
            client.batch_execute(&format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await.is_ok()
        })
        .await;
    })
    .await;
    name
}

async fn drop_stale(client: &Client, before_seconds: i64) {
    let names =
        client.query("SELECT datname::text FROM pg_database WHERE datname LIKE 'parley_scratch_%'", &[]);
    for row in names.await.expect("the list of databases") {
        let name: String = row.get(0);
        let made_at =
            name.trim_start_matches(SCRATCH).split('_').next().and_then(|seconds| seconds.parse().ok());
        if made_at.is_some_and(|seconds: i64| seconds < before_seconds) {
            // Another test may have been quicker.
            let _dropped =
                client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

#[track_caller]
fn refused(what: &str, error: &tokio_postgres::Error) -> ! {
    panic!("{what}: {error}: {:?}", error.as_db_error().map(|refusal| refusal.message()))
}

async fn run(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        refused(sql, &error);
    }
}

/// A connection for as long as `work` takes.
async fn with_client<F: Future<Output = ()>>(url: &Secret, work: impl FnOnce(Client) -> F) {
    match tokio_postgres::connect(url.expose(), NoTls).await {
        Ok((client, connection)) => {
            let (connection, ()) = futures_util::future::join(connection, work(client)).await;
            if let Err(error) = connection {
                refused("the connection for tests", &error);
            }
        }
        Err(error) => refused("connect to PARLEY_TEST_DATABASE_URL", &error),
    }
}
