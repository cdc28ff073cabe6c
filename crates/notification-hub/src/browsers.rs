//! Calls about browsers that can be woken by web push.

use std::sync::Arc;

use model::{Clock, Refusal};
use rpc::notification::{
    self as wire, PushKeyRequest, PushKeyResponse, RegisterPushRequest, RegisterPushResponse,
    RemovePushRequest, RemovePushResponse,
};
use storage::{PushSubscription, Storage};

use crate::{calls::CallError, push::Push};

/// Whatever concerns browsers.
pub(crate) struct Browsers {
    pub(crate) storage: Storage,
    pub(crate) push: Option<Arc<Push>>,
    pub(crate) clock: Clock,
}

impl Browsers {
    pub(crate) async fn key(&self, _request: PushKeyRequest) -> Result<PushKeyResponse, CallError> {
        let public_key = self.push.as_ref().map(|push| push.public_key().to_owned()).unwrap_or_default();
        Ok(PushKeyResponse { public_key })
    }

    pub(crate) async fn register(
        &self,
        request: RegisterPushRequest,
    ) -> Result<RegisterPushResponse, CallError> {
        let push = self.push.as_ref().ok_or(Refusal::PushOff)?;
        let user = wire::user(&request.user_id)?;
        let subscription = PushSubscription {
            endpoint: request.endpoint.into(),
            p256dh: request.p256dh,
            auth: request.auth.into(),
        };
        if !push.accepts(&subscription) {
            return Err(Refusal::SubscriptionInvalid.into());
        }
        self.storage.register_push(&user, &subscription, self.clock.now()).await?;
        Ok(RegisterPushResponse {})
    }

    pub(crate) async fn remove(&self, request: RemovePushRequest) -> Result<RemovePushResponse, CallError> {
        let user = wire::user(&request.user_id)?;
        let removed = self.storage.remove_push(&user, &request.endpoint.into()).await?;
        Ok(RemovePushResponse { removed })
    }
}
