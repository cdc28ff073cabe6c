//! What the doctor is told, and what it finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use e2e::Stack;
use serde_json::Value;
use testkit::ScratchFolder;
use tokio::{process::Command, time::timeout};

/// Nothing here takes long; this only keeps a broken test from hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// One examination.
#[derive(Clone)]
pub struct Patient {
    settings: BTreeMap<String, String>,
    url: String,
    arguments: Vec<String>,
    speech: bool,
}

impl Patient {
    /// A stack as it is, without the recording.
    pub fn of(stack: &Stack) -> Self {
        let mut settings = stack.settings().clone();
        // Zero means any free port to a service, and is told to nobody else.
        settings.retain(|_, value| value != "0");
        settings.insert("RTMP_EXTERNAL_PORT".to_owned(), stack.nginx.rtmp_port.to_string());
        if let Some(model) = testkit::model_dir() {
            settings.insert("PARLEY_MODEL_DIR".to_owned(), model.to_str().unwrap().to_owned());
        }
        let url = stack.http("").trim_end_matches('/').to_owned();
        Self { settings, url, arguments: Vec::new(), speech: false }
    }

    /// A setting of the stack.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).unwrap()
    }

    /// With another setting; an empty one is none.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// On a machine without a server's settings.
    pub fn client(mut self) -> Self {
        self.settings.clear();
        self
    }

    /// At another front door.
    pub fn url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.url);
        self
    }

    /// With the recording.
    pub fn with_speech(mut self) -> Self {
        self.speech = true;
        self
    }

    /// With more arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Names of what is not as it should be, and the whole report.
    pub async fn examine(&self) -> (BTreeSet<String>, String) {
        let folder = ScratchFolder::new("doctor");
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_parley"));
        doctor.arg("doctor").arg(&self.url).arg("--json").args(&self.arguments);
        if !self.speech {
            doctor.arg("--no-speech");
        }
        doctor.env_clear().envs(&self.settings).current_dir(folder.path()).stdin(Stdio::null());
        let said = timeout(LIMIT, doctor.output()).await.expect("an end").unwrap();
        let shown = String::from_utf8_lossy(&said.stdout).into_owned();
        let report: Value = serde_json::from_str(&shown)
            .unwrap_or_else(|_| panic!("{shown} {}", String::from_utf8_lossy(&said.stderr)));
        let checks = report.get("checks").and_then(Value::as_array).unwrap();
        let text = |check: &Value, name: &str| {
            check.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let failed = checks.iter().any(|check| text(check, "verdict") == "fail");
        assert_eq!(said.status.code(), Some(i32::from(failed)), "{shown}");
        let unwell = checks.iter().filter(|check| matches!(text(check, "verdict").as_str(), "warn" | "fail"));
        let names = unwell.map(|check| {
            assert!(!text(check, "mend").is_empty(), "nothing to do about {check}");
            text(check, "name")
        });
        let names = names.collect();
        for secret in
            ["TRANSCRIPTION_JWT_SECRET", "JWT_SECRET", "SERVICE_KEY", "INTERNAL_TOKEN", "DATABASE_URL"]
        {
            let value = self.settings.get(secret).filter(|value| value.len() > 8);
            assert!(value.is_none_or(|value| !shown.contains(value.as_str())), "{secret} is printed");
        }
        (names, shown)
    }
}

/// Names of what is as it should be.
pub fn good(shown: &str) -> BTreeSet<String> {
    let report: Value = serde_json::from_str(shown).unwrap();
    let checks = report.get("checks").and_then(Value::as_array).unwrap();
    let good = checks.iter().filter(|check| check.get("verdict") == Some(&Value::from("ok")));
    good.filter_map(|check| Some(check.get("name")?.as_str()?.to_owned())).collect()
}
