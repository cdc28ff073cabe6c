//! System C: notifications, and what users want to hear.

use model::{
    JsonObject, NewNotification, NotificationId, NotificationType, Priority, UserId,
    notification::METADATA_BYTES_MAX,
};
use storage::{OLD_NOTIFICATIONS, OLD_SETTINGS, OldRow, PastKind, PastNotification, Storage};

use super::{
    Import, ImportError,
    row::{LeftOut, Taken, flag, id, moment, needed, optional, parsed},
};
use crate::failure::Failure;

/// Which types a setting of a user switches off. Of any other nobody here knows what it means.
const SETTINGS: [(&str, &[&str]); 6] = [
    ("notifyLikes", &["LIKE_POST", "LIKE_COMMENT"]),
    ("notifyComments", &["COMMENT_POST", "REPLY_COMMENT"]),
    ("notifyNewPosts", &["NEW_POST_FROM_SUBSCRIPTION"]),
    ("notifySubscriptions", &["NEW_SUBSCRIBER"]),
    ("notifyMessages", &["NEW_MESSAGE"]),
    ("notifyTips", &["TIP_RECEIVED"]),
];

pub(super) async fn import(import: &mut Import) -> Result<(), Failure> {
    let origin = import.origin.clone();
    import
        .take(
            &OLD_NOTIFICATIONS,
            PastKind::Notification,
            |row| notification(row, &origin),
            async |storage: &Storage, origin, user: &UserId, rows| {
                storage.import_notifications(origin, user, rows).await
            },
        )
        .await?;
    if import.old.count(&OLD_SETTINGS).await.map_err(ImportError::Old)?.is_none() {
        return Ok(());
    }
    for unknown in import.old.unknown_settings().await.map_err(ImportError::Old)? {
        import.screen.remark(&format!("the setting {unknown} has no counterpart and is left out"));
    }
    import
        .take(
            &OLD_SETTINGS,
            PastKind::Settings,
            |row| muted(row, &origin),
            async |storage: &Storage, origin, user: &UserId, rows| {
                let mut new = 0;
                for (id, types) in rows {
                    new += storage.import_muted_types(origin, id, user, types).await?;
                }
                Ok(new)
            },
        )
        .await
}

fn notification(row: &OldRow, origin: &str) -> Result<Taken<UserId, PastNotification>, LeftOut> {
    let id = id(row)?;
    let user = parsed(row, "userId")?;
    let metadata = match optional(row, "metadata")? {
        None | Some("null") => None,
        Some(json) => Some(
            JsonObject::parse(json, METADATA_BYTES_MAX * 2)
                .map_err(|why| LeftOut::unfit("metadata")(&why))?,
        ),
    };
    let new = NewNotification {
        kind: parsed(row, "type")?,
        title: needed(row, "title")?.to_owned(),
        message: optional(row, "message")?.unwrap_or("").to_owned(),
        metadata,
        priority: Priority::default(),
        expires_at: None,
        deliver_at: None,
        collapse_key: None,
    };
    new.check().map_err(|why| LeftOut::Unfit(why.to_string()))?;
    let Some(created_at) = moment(row, "createdAt")? else {
        return Err(LeftOut::Unfit("it has no createdAt".to_owned()));
    };
    let past = PastNotification {
        id: id.clone(),
        notification: NotificationId(PastKind::Notification.id(origin, &id)),
        kind: new.kind,
        title: new.title,
        message: new.message,
        metadata: new.metadata,
        is_read: flag(row, "isRead", false)?,
        is_archived: flag(row, "isArchived", false)?,
        created_at,
    };
    Ok(Taken { id, place: user, row: past })
}

fn muted(row: &OldRow, origin: &str) -> Result<Taken<UserId, (String, Vec<NotificationType>)>, LeftOut> {
    let id = id(row)?;
    let user = parsed(row, "id")?;
    let mut types = Vec::new();
    for (setting, of_setting) in SETTINGS {
        if !flag(row, setting, true)? {
            types.extend(of_setting.iter().filter_map(|kind| kind.parse().ok()));
        }
    }
    if types.is_empty() {
        return Err(LeftOut::OnPurpose("that switch nothing off"));
    }
    // The row is called as the user is, who may be erased here.
    let id = PastKind::Settings.digest(origin, &id).to_string();
    Ok(Taken { id: id.clone(), place: user, row: (id, types) })
}
