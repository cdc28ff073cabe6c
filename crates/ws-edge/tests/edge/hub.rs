//! The notification hub beside an edge, on a cable that can be cut.

use std::time::Duration;

use lifecycle::Lifecycle;
use model::Clock;
use notification_hub::HubSettings;
use testkit::Cable;

use crate::stage::{Setup, Stage};

/// A stage with a hub.
pub struct ChatStage {
    pub stage: Stage,
    /// Between the edge and the hub.
    pub cable: Cable,
    hub: Lifecycle,
}

impl ChatStage {
    /// Anybody may chat.
    pub async fn open() -> Self {
        Self::with(&[("CHAT_ANONYMOUS", "true")]).await
    }

    /// With these settings of the edge.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let mut setup = Setup::new().await;
        let mut pairs = setup.stores();
        pairs.extend([("HUB_PORT", "0".to_owned()), ("HUB_METRICS_PORT", "0".to_owned())]);
        let hub = Lifecycle::default();
        let running =
            notification_hub::start(&HubSettings::read(settings::of(pairs)).unwrap(), &hub, Clock::system())
                .await
                .unwrap();
        let cable = Cable::to(running.address.to_string()).await;
        setup = setup.set("NOTIFICATION_HUB", &format!("http://{}", cable.address()));
        for (name, value) in settings {
            setup = setup.set(name, value);
        }
        Self { stage: setup.start().await, cable, hub }
    }

    pub async fn end(self) {
        self.stage.end().await;
        assert_eq!(self.hub.end(Duration::from_millis(100)).await, Ok(()));
    }
}
