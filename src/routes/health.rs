//! `GET /health`: whether this deployment is able to do its work (docs/wire.md §5.2).
//!
//! The answer is always 200. `ready` says whether everything that requests need is bound, and `readiness` says which
//! part is not. Nothing secret is said, and the registry is not asked anything: a health check must not become load
//! there.

use serde::Serialize;
use worker::Response;

use crate::app::{App, binding};
use crate::error::ApiError;
use crate::http::json_response;
use crate::registry;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    ready: bool,
    version: &'a str,
    environment: &'static str,
    readiness: Readiness,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    registry_url_configured: bool,
    internal_service_credentials_configured: bool,
    relay_session_namespace_configured: bool,
    trust_state_binding_configured: bool,
    database_binding_configured: bool,
    events_queue_binding_configured: bool,
    receipt_queue_binding_configured: bool,
    version_source: &'static str,
    /// `never`, `fresh`, `stale` or `dead`, in this isolate: a CRL that was never loaded is said, not hidden.
    crl: &'static str,
}

/// Answers 200.
pub fn handle(app: &App) -> Result<Response, ApiError> {
    let readiness = Readiness {
        // The settings parsed, or this handler would not have been reached.
        registry_url_configured: true,
        internal_service_credentials_configured: true,
        relay_session_namespace_configured: app.env.durable_object(binding::AGENT_RELAY_SESSION).is_ok(),
        trust_state_binding_configured: app.env.durable_object(binding::PROXY_TRUST_STATE).is_ok(),
        database_binding_configured: app.db().is_ok(),
        events_queue_binding_configured: app.queue(binding::EVENTS_QUEUE).is_ok(),
        receipt_queue_binding_configured: app.queue(binding::RECEIPT_QUEUE).is_ok(),
        version_source: app.config.version_source,
        crl: registry::crl::state(app),
    };
    let ready = readiness.relay_session_namespace_configured
        && readiness.trust_state_binding_configured
        && readiness.database_binding_configured
        && readiness.events_queue_binding_configured
        && readiness.receipt_queue_binding_configured;
    let health = Health {
        status: "ok",
        ready,
        version: &app.config.version,
        environment: app.config.environment.as_str(),
        readiness,
    };
    json_response(200, &health)
}
