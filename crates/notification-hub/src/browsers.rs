//! Calls about browsers that can be woken by web push.

use model::Refusal;
use rpc::notification::{
    self as wire, PushKeyRequest, PushKeyResponse, RegisterPushRequest, RegisterPushResponse,
    RemovePushRequest, RemovePushResponse,
};
use storage::Storage;

use crate::calls::CallError;

/// Whatever concerns browsers.
pub(crate) struct Browsers {
    storage: Storage,
}

impl Browsers {
    pub(crate) fn new(storage: Storage) -> Self {
        Self { storage }
    }

    pub(crate) async fn key(&self, _request: PushKeyRequest) -> Result<PushKeyResponse, CallError> {
        Ok(PushKeyResponse { public_key: String::new() })
    }

    pub(crate) async fn register(
        &self,
        _request: RegisterPushRequest,
    ) -> Result<RegisterPushResponse, CallError> {
        Err(Refusal::PushOff.into())
    }

    pub(crate) async fn remove(&self, request: RemovePushRequest) -> Result<RemovePushResponse, CallError> {
        let user = wire::user(&request.user_id)?;
        let removed = self.storage.remove_push(&user, &request.endpoint.into()).await?;
        Ok(RemovePushResponse { removed })
    }
}
