//! Lets our own services in, and nobody else.

use auth::ServiceKeys;
use rpc::INTERNAL_TOKEN;
use tonic::{Request, Status, service::Interceptor};

/// Asks every call for `INTERNAL_TOKEN`, when one is set.
#[derive(Clone)]
pub(crate) struct Door {
    internal_tokens: ServiceKeys,
}

impl Door {
    pub(crate) fn new(internal_tokens: ServiceKeys) -> Self {
        Self { internal_tokens }
    }
}

impl Interceptor for Door {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let token = request.metadata().get(INTERNAL_TOKEN).and_then(|token| token.to_str().ok());
        if self.internal_tokens.is_empty() || token.is_some_and(|token| self.internal_tokens.accepts(token)) {
            return Ok(request);
        }
        Err(Status::unauthenticated("INTERNAL_TOKEN of caller and hub differ"))
    }
}
