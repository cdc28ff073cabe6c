//! The borders between crates, and the licences of what they lean on, read from `cargo metadata`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package};

fn metadata() -> Metadata {
    MetadataCommand::new()
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap()
}

/// Who may depend on what, beside its own tests. Invariants 5 and 7 of docs/ARCHITECTURE.md.
const ONLY: &[(&str, &[&str])] = &[
    ("tokio-postgres", &["storage", "testkit"]),
    ("deadpool-postgres", &["storage"]),
    ("tokio-postgres-rustls", &["storage"]),
    ("refinery", &["storage"]),
    ("redis", &["event-bus", "testkit"]),
    ("jsonwebtoken", &["auth"]),
    ("ort", &["speech"]),
    ("earshot", &["speech"]),
    ("symphonia", &["audio"]),
    ("opus", &["audio"]),
    ("rubato", &["audio"]),
    ("tonic", &["rpc", "transcription-worker", "notification-hub", "ws-edge", "testkit"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry-otlp", &["telemetry"]),
    ("opentelemetry-proto", &["testkit"]),
    ("prost", &["rpc", "livekit", "testkit"]),
    ("livekit-api", &["livekit", "testkit"]),
    ("livekit-protocol", &["livekit", "testkit"]),
    ("livekit", &["ws-edge", "parley"]),
    ("web-push-native", &["notification-hub"]),
    ("audio", &["ws-edge", "rtmp-ingest"]),
    ("rtmp", &["rtmp-ingest", "parley", "e2e", "testkit", "loadgen"]),
    ("speech", &["transcription-worker"]),
    ("translate", &["transcription-worker"]),
    ("config", &["settings"]),
    ("ws-edge", &["e2e"]),
    ("rtmp-ingest", &["e2e"]),
    ("transcription-worker", &["e2e"]),
    ("notification-hub", &["e2e"]),
    ("testkit", &["e2e", "loadgen"]),
];

fn dependants<'a>(members: &[&'a Package], of: &str) -> BTreeSet<&'a str> {
    let uses = |package: &&&Package| {
        package.dependencies.iter().any(|used| used.name == of && used.kind != DependencyKind::Development)
    };
    members.iter().filter(uses).map(|package| package.name.as_str()).collect()
}

#[test]
fn crates_keep_to_their_side() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let mut faults = BTreeMap::new();
    for (used, allowed) in ONLY {
        let strangers: Vec<_> =
            dependants(&members, used).into_iter().filter(|name| !allowed.contains(name)).collect();
        if !strangers.is_empty() {
            faults.insert(*used, strangers);
        }
    }
    assert!(faults.is_empty(), "crates that others may not use, and who does: {faults:?}");
}

#[test]
fn every_guarded_crate_is_still_used() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let used: BTreeSet<_> =
        members.iter().flat_map(|package| &package.dependencies).map(|used| used.name.as_str()).collect();
    let gone: Vec<_> = ONLY.iter().map(|(name, _)| *name).filter(|name| !used.contains(name)).collect();
    assert!(gone.is_empty(), "guards for nothing: {gone:?}");
}

#[test]
fn a_crate_is_named_for_what_it_knows_and_lies_in_a_folder_of_that_name() {
    for package in metadata().workspace_packages() {
        let folder = package.manifest_path.parent().unwrap().file_name().unwrap();
        assert_eq!(folder, package.name.as_str());
        for vague in ["common", "core", "utils", "helpers", "shared", "types"] {
            assert_ne!(package.name.as_str(), vague);
        }
    }
}

/// Licences that ask for no more than to be named; MPL-2.0 concerns only changes to the files of that crate.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether one of the alternatives of an SPDX expression is wholly allowed. `OR` binds weaker than `AND`; a bracket
/// is an alternative or a conjunction of its own.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    split(&expression, " OR ").iter().any(|alternative| {
        split(alternative, " AND ").iter().all(|term| {
            let term = term.trim();
            match term.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
                Some(inner) => allowed(inner),
                None => LICENCES.contains(&term),
            }
        })
    })
}

/// Splits outside of brackets.
fn split<'a>(expression: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0
                && at >= start
                && expression.get(at..).is_some_and(|rest| rest.starts_with(separator)) =>
            {
                parts.push(expression.get(start..at).unwrap());
                start = at + separator.len();
            }
            _ => {}
        }
    }
    parts.push(expression.get(start..).unwrap());
    parts
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND AGPL-3.0", ""] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    let metadata = metadata();
    let mut refused = HashMap::new();
    for package in &metadata.packages {
        if !package.license.as_deref().is_some_and(allowed) {
            refused.insert(package.name.to_string(), package.license.clone());
        }
    }
    assert!(refused.is_empty(), "{refused:?}");
}
