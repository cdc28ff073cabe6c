//! `parley doctor` beside a whole system that is well, and then with one fault after another: it must name each, and nothing
//! else.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod middleman;
#[cfg(test)]
mod patient;

use std::{collections::BTreeSet, fmt::Write as _};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use e2e::{Plan, Stack};
use model::SessionSlug;
use serde_json::json;
use settings::Secret;
use testkit::{Database, LiveKitServer, ScratchFolder, free_port, tokens};

use crate::{
    middleman::{Listening, Middleman, front},
    patient::Patient,
};

const SESSION_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-session";
const USER_SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-users";
const OTHER_SECRET: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f-other";
const ORIGIN: &str = "https://app.parley.test";

async fn stack() -> Stack {
    let (chat, translate) = (free_port().to_string(), free_port().to_string());
    let settings = [
        ("TRANSCRIPTION_JWT_SECRET", SESSION_SECRET.to_owned()),
        ("JWT_SECRET", USER_SECRET.to_owned()),
        ("SERVICE_KEY", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-service".to_owned()),
        ("INTERNAL_TOKEN", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-internal".to_owned()),
        ("CORS_ORIGIN", ORIGIN.to_owned()),
        ("CHAT_PORT", chat),
        ("TRANSLATE_PORT", translate),
    ];
    Stack::with(Plan { settings: settings.to_vec(), ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_named_and_no_other() {
    let mut stack = stack().await;
    let well = Patient::of(&stack);
    let mut faults = Faults::default();

    let (names, shown) = well.clone().with_speech().examine().await;
    assert!(names.is_empty(), "{shown}");
    let good = patient::good(&shown);
    for part in ["front door", "upgrade", "postgres", "redis", "ports", "model", "speech", "rtmp", "system d"]
    {
        assert!(good.contains(part), "{part}: {shown}");
    }

    settings(&well, &mut faults).await;
    stores(&well, &stack, &mut faults).await;
    given_tokens(&well, &mut faults).await;
    client_files(&well, &mut faults).await;
    front_doors(&well, &stack, &mut faults).await;
    others(&well, &stack, &mut faults).await;

    stack.worker.end().await;
    faults.plant("no worker", &well.clone().with_speech(), "speech").await;
    faults.judge();
}

#[derive(Default)]
struct Faults {
    planted: usize,
    missed: String,
}

impl Faults {
    /// Has a patient with one fault examined.
    async fn plant(&mut self, fault: &str, patient: &Patient, expected: &str) {
        self.planted += 1;
        let (names, shown) = patient.examine().await;
        if names != BTreeSet::from([expected.to_owned()]) {
            let _infallible =
                writeln!(self.missed, "{fault}: expected {expected}, told of {names:?}\n{shown}");
        }
    }

    fn judge(self) {
        assert!(self.missed.is_empty(), "{}", self.missed);
        assert!(self.planted >= 40, "only {} faults", self.planted);
    }
}

async fn settings(well: &Patient, faults: &mut Faults) {
    let other =
        Listening::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
    let taken = other.port.to_string();
    let cases = [
        ("TRANSCRIPTION_JWT_SECRET", "", "TRANSCRIPTION_JWT_SECRET"),
        ("TRANSCRIPTION_JWT_SECRET", OTHER_SECRET, "secrets"),
        (
            "TRANSCRIPTION_JWT_SECRET",
            "\"0f1e2d3c4b5a69788796a5b4c3d2e1f0-session\"",
            "TRANSCRIPTION_JWT_SECRET",
        ),
        ("JWT_SECRET", OTHER_SECRET, "secrets"),
        ("JWT_SECRET", "", "JWT_SECRET"),
        ("JWT_SECRET", "your-secret-goes-here-your-secret-goes-here", "JWT_SECRET"),
        ("SERVICE_KEY", "short", "SERVICE_KEY"),
        ("SERVICE_KEY", "twenty bytes or more", "SERVICE_KEY"),
        ("SERVICE_KEY", "", "SERVICE_KEY"),
        ("SERVICE_KEY", SESSION_SECRET, "SERVICE_KEY"),
        ("INTERNAL_TOKEN", "", "INTERNAL_TOKEN"),
        ("INTERNAL_TOKEN", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "INTERNAL_TOKEN"),
        ("PORT", "many", "PORT"),
        ("METRICS_PORT", well.setting("CHAT_PORT"), "METRICS_PORT"),
        ("RTMP_PORT", well.setting("PORT"), "PORT"),
        ("CHAT_PORT", &taken, "CHAT_PORT"),
        ("RTMP_PORT", &taken, "RTMP_PORT"),
        ("DATABASE_URL", "", "DATABASE_URL"),
        ("DATABASE_URL", "mysql://u:p@127.0.0.1/parley", "DATABASE_URL"),
        ("REDIS_URL", "http://127.0.0.1:6379", "REDIS_URL"),
        ("CORS_ORIGIN", "app.parley.test", "CORS_ORIGIN"),
        ("CORS_ORIGIN", "https://app.parley.test/login", "CORS_ORIGIN"),
        ("PUBLIC_URL", "captions.parley.test", "PUBLIC_URL"),
        ("LEGACY_OPEN_ROUTES", "true", "LEGACY_OPEN_ROUTES"),
        ("RTMP_OPEN_KEYS", "1", "RTMP_OPEN_KEYS"),
        ("CHAT_ANONYMOUS", "yes", "CHAT_ANONYMOUS"),
        ("FASTER_WHISPER_REQUIRE_AUTH", "false", "FASTER_WHISPER_REQUIRE_AUTH"),
        ("WS_TEST_MODE", "true", "WS_TEST_MODE"),
        ("UPGRADE_AUTH", "reject", "UPGRADE_AUTH"),
        ("SERVER_MODE", "rtmp", "SERVER_MODE"),
        ("WS_PORT", "3001", "WS_PORT"),
        ("ENGINE", "gladia", "GLADIA_API_KEY"),
        ("TRANSLATOR", "libretranslate", "LIBRETRANSLATE_URL"),
        ("LIVEKIT_API_KEY", "APIabcdefgh", "LIVEKIT_WS_URL LIVEKIT_API_SECRET"),
    ];
    for (name, value, expected) in cases {
        let patient = well.clone().set(name, value);
        match expected.split_once(' ') {
            None => faults.plant(&format!("{name}={value}"), &patient, expected).await,
            // Two halves are missing, and each is told.
            Some((one, other)) => {
                let (names, shown) = patient.examine().await;
                assert_eq!(names, BTreeSet::from([one.to_owned(), other.to_owned()]), "{shown}");
            }
        }
    }
}

async fn stores(well: &Patient, stack: &Stack, faults: &mut Faults) {
    let url = well.setting("DATABASE_URL").to_owned();
    let closed = free_port();
    let unmigrated = Database::unmigrated().await;
    let wrong_password = {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let user = user.split(':').next().unwrap();
        format!("{scheme}://{user}:wrong@{rest}")
    };
    let no_such = format!("{}/no_such_database", url.rsplit_once('/').unwrap().0);
    for (fault, url) in [
        ("Postgres is down", format!("postgres://u:p@127.0.0.1:{closed}/parley")),
        ("a wrong password", wrong_password),
        ("no such database", no_such),
        ("an unmigrated database", unmigrated.url().expose().to_owned()),
        ("a read-only role", format!("{url}?options=-c%20default_transaction_read_only%3Don")),
    ] {
        faults.plant(fault, &well.clone().set("DATABASE_URL", &url), "postgres").await;
    }

    let redis = stack.redis.url();
    let address = redis.expose().strip_prefix("redis://").unwrap().trim_end_matches('/').to_owned();
    middleman::say(&address, "ACL SETUSER deaf on >hush ~* resetchannels +@all -@pubsub\r\n").await;
    for (fault, url) in [
        ("Redis is down", format!("redis://127.0.0.1:{closed}")),
        ("a wrong password", format!("redis://deaf:loud@{address}")),
        ("Redis without pub/sub", format!("redis://deaf:hush@{address}")),
    ] {
        faults.plant(fault, &well.clone().set("REDIS_URL", &url), "redis").await;
    }
}

async fn given_tokens(well: &Patient, faults: &mut Faults) {
    let session: SessionSlug = "demo".parse().unwrap();
    let (ours, users, others) =
        (Secret::from(SESSION_SECRET), Secret::from(USER_SECRET), Secret::from(OTHER_SECRET));
    let good = tokens::good(&ours, &session, "alice");
    let (names, shown) = well.clone().arguments(&["--token", &good]).examine().await;
    assert!(names.is_empty(), "{shown}");

    let changed = |change: fn(&mut auth::SessionClaims)| {
        let mut claims = tokens::claims(&session, "alice");
        change(&mut claims);
        tokens::sign(&ours, &claims)
    };
    let unsigned = {
        let part = |json: serde_json::Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let claims = json!({ "sessionSlug": "demo", "identity": "alice", "exp": 4_000_000_000_u64 });
        format!("{}.{}.", part(json!({ "alg": "none" })), part(claims))
    };
    // The server's secret as base64 of what the issuer signs with.
    let encoded = base64ct::Base64::encode_string(OTHER_SECRET.as_bytes());
    let cases = [
        ("expired", tokens::expired(&ours, &session, "alice")),
        ("signed with another secret", tokens::good(&others, &session, "alice")),
        ("signed with the secret of users", tokens::good(&users, &session, "alice")),
        ("JSON around it", json!({ "token": good }).to_string()),
        ("quotes around it", format!("\"{good}\"")),
        ("half of it", good.rsplit_once('.').unwrap().0.to_owned()),
        ("oversized", changed(|claims| claims.name = Some("a".repeat(4000)))),
        ("not signed", unsigned),
        ("issued in the future", changed(|claims| claims.iat = Some(claims.exp + 3600))),
        ("milliseconds", changed(|claims| claims.exp *= 1000)),
        ("a claim is missing", changed(|claims| (claims.identity, claims.sub) = (None, None))),
        ("an unknown scope", changed(|claims| claims.scope = Some("everything".to_owned()))),
    ];
    for (fault, token) in cases {
        faults
            .plant(&format!("a token: {fault}"), &well.clone().arguments(&["--token", &token]), "token")
            .await;
    }
    let user = tokens::of_user(&others, "u1", 3600);
    faults
        .plant("a user's token of another secret", &well.clone().arguments(&["--token", &user]), "token")
        .await;
    let token = tokens::good(&others, &session, "alice");
    let patient = well.clone().set("TRANSCRIPTION_JWT_SECRET", &encoded).arguments(&["--token", &token]);
    let (_, shown) = patient.examine().await;
    assert!(shown.contains("base64-decoded"), "{shown}");
    // Elsewhere nobody can tell but the server.
    let client = well.clone().client().arguments(&["--client-only", "--token", &token]);
    faults.plant("a token that the server refuses", &client, "token").await;
}

async fn client_files(well: &Patient, faults: &mut Faults) {
    let folder = ScratchFolder::new("client-env");
    let site = "NEXTAUTH_URL=https://app.parley.test\n";
    let cases = [
        ("NEXT_PUBLIC_WS_HOST", "https://captions.parley.test"),
        ("NEXT_PUBLIC_WS_HOST", "captions.parley.test:3001"),
        ("NEXT_PUBLIC_WS_HOST", "captions.parley.test/"),
        ("NEXT_PUBLIC_WS_PORT", "3001"),
        ("WS_SERVER_URL", "http://captions.parley.test"),
        ("WS_SERVER_URL", "https://captions.parley.test:3001"),
        ("WS_SERVER_URL", "captions.parley.test"),
        ("NEXT_PUBLIC_SOCKETIO_URL", "wss://captions.parley.test"),
        ("NEXT_PUBLIC_SOCKETIO_URL", "http://captions.parley.test"),
        ("NEXT_PUBLIC_SOCKETIO_URL", "http://localhost:3002"),
        ("VITE_FASTER_WHISPER_URL", "https://captions.parley.test:7860"),
        ("NEXT_PUBLIC_JWT_SECRET", USER_SECRET),
        ("TRANSCRIPTION_JWT_SECRET", OTHER_SECRET),
        ("NEXTAUTH_SECRET", OTHER_SECRET),
    ];
    let path = folder.path().join("client.env");
    let patient = well.clone().arguments(&["--client-env", path.to_str().unwrap()]);
    for (name, value) in cases {
        std::fs::write(&path, format!("{site}{name}={value}\n")).unwrap();
        faults.plant(&format!("{name}={value} of a client"), &patient, name).await;
    }
    std::fs::write(&path, "this is no variable\n").unwrap();
    faults.plant("a client's file that cannot be read", &patient, "client env").await;
    let good = format!("{site}NEXT_PUBLIC_WS_HOST=captions.parley.test\nNEXTAUTH_SECRET={USER_SECRET}\n");
    std::fs::write(&path, good).unwrap();
    let (names, shown) = patient.examine().await;
    assert!(names.is_empty(), "{shown}");
}

async fn front_doors(well: &Patient, stack: &Stack, faults: &mut Faults) {
    let at = |port: u16| well.clone().url(&format!("http://127.0.0.1:{port}"));
    faults.plant("a closed port", &at(free_port()), "front door").await;
    faults.plant("http:// to the TLS port", &at(stack.nginx.https_port), "front door").await;
    let https = format!("https://127.0.0.1:{}", stack.nginx.http_port);
    faults.plant("https:// to the plain port", &well.clone().url(&https), "front door").await;
    faults
        .plant("a host without address", &well.clone().url("http://captions.parley.invalid"), "front door")
        .await;
    let encrypted = well.clone().url(&format!("https://127.0.0.1:{}", stack.nginx.https_port));
    let (names, shown) = encrypted.examine().await;
    assert!(names.is_empty(), "{shown}");

    let answers = [
        (
            "nginx without the site",
            "HTTP/1.1 404 Not Found\r\nServer: nginx\r\n",
            "<html><center>nginx</center></html>",
        ),
        ("a proxy without an edge", "HTTP/1.1 502 Bad Gateway\r\n", "<html>502</html>"),
        ("another program", "HTTP/1.1 200 OK\r\n", "<!DOCTYPE html><title>Next</title>"),
        (
            "a redirect",
            "HTTP/1.1 301 Moved Permanently\r\nLocation: https://captions.parley.test/\r\n",
            "moved",
        ),
        ("no HTTP at all", "220 mail.parley.test ESMTP", ""),
    ];
    for (fault, head, body) in answers {
        let answer = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let other = Listening::answering(if body.is_empty() { head } else { &answer }).await;
        faults.plant(fault, &at(other.port), "front door").await;
    }

    // What stands between clients and a server that is well.
    for (fault, middleman, expected) in Middleman::KINDS {
        let between = middleman.start(stack.nginx.http_port).await;
        faults.plant(fault, &at(between.port), expected).await;
    }
    let edge = stack.doors()[1];
    let plain = front(edge, false, "").await;
    faults.plant("nginx without upgrade headers", &at(plain.port), "upgrade").await;
    let other = front(edge, false, "location /socket.io/ { return 404; } location /ws { return 404; } location /api/realtime/ { return 404; }").await;
    faults.plant("nginx without the paths", &at(other.port), "upgrade").await;
    let http2 = front(edge, true, "").await;
    let patient = well.clone().url(&format!("https://127.0.0.1:{}", http2.port));
    faults.plant("HTTP/2", &patient, "http2").await;

    let from = |origin: &str| well.clone().arguments(&["--origin", origin]);
    let (names, shown) = from(ORIGIN).examine().await;
    assert!(names.is_empty(), "{shown}");
    faults.plant("another origin", &from("https://elsewhere.parley.test"), "cors").await;
}

async fn others(well: &Patient, stack: &Stack, faults: &mut Faults) {
    let closed = free_port();
    let chat: u16 = well.setting("CHAT_PORT").parse().unwrap();
    for (fault, port) in [("nobody at system D's door", closed), ("another door", chat)] {
        let url = format!("http://127.0.0.1:{port}");
        faults.plant(fault, &well.clone().arguments(&["--translate", &url]), "system d").await;
    }
    for (fault, url) in [
        ("RTMP closed", format!("rtmp://127.0.0.1:{closed}/live/key")),
        ("RTMP's port is HTTP's", format!("rtmp://127.0.0.1:{}/live/key", stack.nginx.http_port)),
        ("a wrong stream key", stack.rtmp("parley_not_a_key")),
        ("no RTMP address", "http://127.0.0.1/live/key".to_owned()),
    ] {
        faults.plant(fault, &well.clone().arguments(&["--rtmp", &url]), "rtmp").await;
    }

    let livekit = LiveKitServer::start().await;
    let rooms = |secret: &str| {
        let patient = well.clone().set("LIVEKIT_WS_URL", &livekit.url().replace("http://", "ws://"));
        patient.set("LIVEKIT_API_KEY", &livekit.key()).set("LIVEKIT_API_SECRET", secret)
    };
    let (names, shown) = rooms(livekit.secret().expose()).examine().await;
    assert!(names.is_empty(), "{shown}");
    faults.plant("LiveKit's secret is another", &rooms(OTHER_SECRET), "livekit").await;

    for status in ["401 Unauthorized", "402 Payment Required"] {
        let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let gladia = Listening::answering(&answer).await;
        let url = format!("http://127.0.0.1:{}", gladia.port);
        let patient = well.clone().set("GLADIA_API_KEY", "a key of the tests").set("GLADIA_API_URL", &url);
        faults.plant(&format!("Gladia answers {status}"), &patient, "gladia").await;
    }

    let folder = ScratchFolder::new("model");
    for name in ["encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"] {
        std::fs::write(folder.path().join(name), "half of it").unwrap();
    }
    let patient = well.clone().set("PARLEY_MODEL_DIR", folder.path().to_str().unwrap());
    faults.plant("a broken model", &patient, "model").await;
}
