//! What a hub says of wrong settings.

use notification_hub::HubSettings;

#[test]
fn every_fault_is_reported_at_once() {
    let wrong = [
        ("HUB_PORT", "many"),
        ("VAPID_PRIVATE_KEY", "11"),
        ("VAPID_SUBJECT", "me"),
        ("NOTIFY_HOOK_URL", "ftp://example"),
        ("SESSION_HOOK_URL", "https://example"),
        ("SESSION_HOOK_EVENTS", "session.started,session.paused"),
        ("PUBLIC_URL", "captions.example"),
        ("NOTIFICATION_RETENTION_DAYS", "-1"),
    ];
    let problems = HubSettings::read(settings::of(wrong)).unwrap_err().to_string();
    for name in [
        "DATABASE_URL",
        "HUB_PORT",
        "VAPID_PRIVATE_KEY",
        "VAPID_SUBJECT",
        "NOTIFY_HOOK_URL",
        "NOTIFY_HOOK_SECRET",
        "SESSION_HOOK_SECRET",
        "SESSION_HOOK_EVENTS",
        "PUBLIC_URL",
        "NOTIFICATION_RETENTION_DAYS",
    ] {
        assert!(problems.contains(name), "{name}: {problems}");
    }
}
