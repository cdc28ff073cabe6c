//! A Postgres that speaks TLS and nothing else, and one that speaks none.

use std::time::Duration;

use settings::Secret;
use storage::{Storage, StorageSettings};
use testkit::{Authority, Database, PostgresServer};

async fn reached(url: Secret) -> Result<(), String> {
    let settings = StorageSettings { url, connections_max: 1, connect_timeout: Duration::from_secs(20) };
    let storage = Storage::connect(&settings).map_err(|error| error.to_string())?;
    // The database is empty: that it lacks our schema is the answer of one that was reached.
    match storage.check().await {
        Ok(()) | Err(storage::StorageError::Unmigrated { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn every_sslmode_asks_for_the_proof_that_libpq_does() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.issue("DNS:localhost,DNS:db.example");
    let server = PostgresServer::start(&certificate, &key).await;
    let ca = ours.certificate().display().to_string();
    let wrong = other.certificate().display().to_string();
    for (host, parameters) in [
        // The server takes nobody without TLS, and signs in by SCRAM: the channel is bound.
        ("localhost", "".to_owned()),
        ("localhost", "sslmode=prefer".to_owned()),
        ("localhost", "sslmode=require&channel_binding=require".to_owned()),
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={ca}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}&channel_binding=require")),
    ] {
        assert_eq!(reached(server.url(host, &parameters)).await, Ok(()), "{host} {parameters}");
    }
    for (host, parameters, says) in [
        ("localhost", "sslmode=disable".to_owned(), "no encryption".to_owned()),
        (
            "localhost",
            format!("sslmode=require&sslrootcert={wrong}"),
            format!("none of sslrootcert={wrong} CAs"),
        ),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={wrong}"),
            format!("none of sslrootcert={wrong} CAs"),
        ),
        ("localhost", format!("sslmode=verify-full&sslrootcert={wrong}"), "by sslrootcert=FILE".to_owned()),
        ("localhost", "sslmode=verify-full".to_owned(), "none of this system's CAs".to_owned()),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            "not for 127.0.0.1 but for DnsName(\"localhost\")".to_owned(),
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned(),
            "sslrootcert=/nowhere.pem".to_owned(),
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={}", key.display()),
            "holds no certificate in PEM".to_owned(),
        ),
    ] {
        let said = reached(server.url(host, &parameters)).await.unwrap_err();
        assert!(said.contains(&says), "{host} {parameters}: {said}");
        assert!(!said.contains("test-only"), "{said}");
    }
}

#[tokio::test]
async fn a_server_without_tls_serves_whom_it_may() {
    let database = Database::scratch().await;
    let url = |mode: &str| Secret::from(format!("{}?sslmode={mode}", database.url().expose()));
    assert_eq!(reached(url("prefer")).await, Ok(()));
    assert_eq!(reached(url("disable")).await, Ok(()));
    for mode in ["require", "verify-full"] {
        let said = reached(url(mode)).await.unwrap_err();
        assert!(said.contains("the server has no TLS") && said.contains("sslmode=disable"), "{mode}: {said}");
    }
}

#[tokio::test]
async fn what_is_its_own_ca_is_trusted_by_name() {
    // As the manual of Postgres makes one: it calls itself a CA.
    let ours = Authority::new();
    let server = PostgresServer::start(&ours.certificate(), &ours.key()).await;
    let ca = ours.certificate().display().to_string();
    assert_eq!(
        reached(server.url("localhost", &format!("sslmode=verify-ca&sslrootcert={ca}"))).await,
        Ok(())
    );
    let said = reached(server.url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))).await;
    assert!(said.clone().unwrap_err().contains("but for no host at all"), "{said:?}");
}
